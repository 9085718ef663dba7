package keys

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tapseal/tapseal/cryptogram"
)

// Digits of a BIN or range bound. The shortest PAN has twelve, so no
// configuration file ever holds one.
const (
	minBINDigits = 4
	maxBINDigits = 11
)

// A panRange holds the PANs whose digits, extended to 19 places with zeros,
// lie in [first, last]. 19 digits fit in 64 bits.
type panRange struct {
	first, last uint64
	owner       int // index into Assignments.list
}

// ParsePANRange reads "476173" or "47617300-47617399", 4 to 11 digits, and gives
// the bounds of the PANs that begin so, as numbers of cryptogram.MaxPANDigits
// digits (cryptogram.PAN.Prefix). Errors do not hold the text.
func ParsePANRange(s string) (first, last uint64, err error) {
	r, err := parseRange(s)
	return r.first, r.last, err
}

// parseRange reads "476173" or "47617300-47617399".
func parseRange(s string) (panRange, error) {
	from, to, two := strings.Cut(s, "-")
	if !two {
		to = from
	}
	if len(from) != len(to) {
		return panRange{}, errors.New("both ends of a range must have the same number of digits")
	}
	if len(from) < minBINDigits || len(from) > maxBINDigits {
		return panRange{}, fmt.Errorf("must have %d to %d digits", minBINDigits, maxBINDigits)
	}
	first, err := extend(from, '0')
	if err != nil {
		return panRange{}, err
	}
	last, err := extend(to, '9')
	if err != nil {
		return panRange{}, err
	}
	if first > last {
		return panRange{}, errors.New("the range ends before it begins")
	}
	return panRange{first: first, last: last}, nil
}

func extend(digits string, fill byte) (uint64, error) {
	var v uint64
	for i := range cryptogram.MaxPANDigits {
		c := fill
		if i < len(digits) {
			c = digits[i]
		}
		if c < '0' || c > '9' {
			return 0, errors.New("must be digits, in quotes")
		}
		v = v*10 + uint64(c-'0')
	}
	return v, nil
}

// overlapError names two owners of one range.
type overlapError struct{ a, b int }

func (e *overlapError) Error() string { return "ranges overlap" }

func sortRanges(rs []panRange) error {
	slices.SortFunc(rs, func(a, b panRange) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(rs); i++ {
		if rs[i].first <= rs[i-1].last {
			return &overlapError{rs[i-1].owner, rs[i].owner}
		}
	}
	return nil
}

// findRange is a binary search: its cost grows with the logarithm of the ranges.
func findRange(rs []panRange, pan *cryptogram.PAN) (owner int, ok bool) {
	if pan.IsZero() {
		return 0, false
	}
	v := pan.Prefix()
	i, found := slices.BinarySearchFunc(rs, v, func(r panRange, v uint64) int { return cmp.Compare(r.first, v) })
	if !found {
		i--
	}
	if i < 0 || v > rs[i].last {
		return 0, false
	}
	return rs[i].owner, true
}
