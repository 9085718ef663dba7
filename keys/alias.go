package keys

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tapseal/tapseal/cryptogram"
)

// Two PANs are aliases under a key if the card keys derived for them are the
// same. Option A takes the rightmost 16 digits of PAN and sequence number (EMV
// Book 2, annex A1.4.1), so it knows the last 14 digits of a PAN, and so does
// option B for PANs of up to 16 digits. Whoever may name the PAN could replay a
// cryptogram under an alias, where nobody has seen it yet. So an assignment says
// how long its PANs are, and no key may serve two ranges that have aliases.

// cardDigits are the digits of a PAN that the card key depends on.
const cardDigits = 14

// defaultPANDigits are those of nearly all cards and tokens.
const defaultPANDigits = 16

// serves are the PANs of one length in one range under one key set.
type serves struct {
	set    string
	owner  string // assignment
	digits int
	// first and last of the card digits. The range has one value of the digits
	// before them, or it would have aliases by itself.
	first, last uint64
}

// parseDigits reads pan_digits.
func parseDigits(list []int) ([]int, error) {
	if len(list) == 0 {
		return []int{defaultPANDigits}, nil
	}
	for i, n := range list {
		if n < cryptogram.MinPANDigits || n > cryptogram.MaxPANDigits {
			return nil, fmt.Errorf("pan_digits: must be %d to %d", cryptogram.MinPANDigits, cryptogram.MaxPANDigits)
		}
		if slices.Contains(list[:i], n) {
			return nil, fmt.Errorf("pan_digits: %d is named twice", n)
		}
	}
	return list, nil
}

func power(n int) (p uint64) {
	p = 1
	for range n {
		p *= 10
	}
	return p
}

// span gives the card digits of a range's PANs of one length. It is an error if
// the range has aliases by itself.
func (r *panRange) span(digits int) (first, last uint64, err error) {
	unit := power(cryptogram.MaxPANDigits - digits)
	first, last = r.first/unit, r.last/unit
	dropped := power(min(digits, cardDigits))
	if first/dropped != last/dropped {
		return 0, 0, fmt.Errorf("a range has PANs of %d digits that share their last %d, on which alone the card key depends: "+
			"name narrower ranges", digits, cardDigits)
	}
	return first % dropped, last % dropped, nil
}

// wholePAN reports whether the card key depends on every digit: option B, over
// PANs of more than 16.
func (as *assignment) wholePAN(digits int) bool {
	return digits > 16 && !slices.ContainsFunc(as.profiles, func(p *cryptogram.Profile) bool { return as.optionFor(p) != cryptogram.OptionB })
}

// checkAliases refuses two PANs with one card key.
func (a *Assignments) checkAliases() error {
	var all []serves
	for i := range a.ranges {
		r := &a.ranges[i]
		as := &a.list[r.owner]
		for _, digits := range as.digits {
			if as.wholePAN(digits) {
				continue
			}
			first, last, err := r.span(digits)
			if err != nil {
				return fmt.Errorf("bins of %q: %w", as.name, err)
			}
			for _, set := range as.keySets() {
				all = append(all, serves{set, as.name, digits, first, last})
			}
		}
	}
	slices.SortFunc(all, func(x, y serves) int {
		if x.set != y.set {
			return cmp.Compare(x.set, y.set)
		}
		return cmp.Compare(x.first, y.first)
	})
	for i := 1; i < len(all); i++ {
		x, y := &all[i-1], &all[i]
		if x.set == y.set && y.first <= x.last {
			return fmt.Errorf("bins of %q (PANs of %d digits) and of %q (%d digits) have PANs that share their last %d digits and key set %q: "+
				"a cryptogram of one would be right for the other; use another key set, or narrower ranges",
				x.owner, x.digits, y.owner, y.digits, cardDigits, x.set)
		}
		y.last = max(y.last, x.lastIf(y))
	}
	return nil
}

func (x *serves) lastIf(y *serves) uint64 {
	if x.set == y.set {
		return x.last
	}
	return 0
}

func (as *assignment) keySets() (sets []string) {
	add := func(r keyRef) {
		if !slices.Contains(sets, r.set) {
			sets = append(sets, r.set)
		}
	}
	for _, r := range as.byDKI {
		add(r)
	}
	if as.any != nil {
		add(*as.any)
	}
	return sets
}
