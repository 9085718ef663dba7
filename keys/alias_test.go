package keys

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
)

// visa is an assignment, named for what it is.
func visa(bins, option, digits, set string) string {
	name := "n"
	for _, c := range bins + digits + option + set {
		if c >= '0' && c <= '9' || c >= 'a' && c <= 'z' {
			name += string(c)
		}
	}
	y := "  - {name: " + name + ", bins: [" + bins + "], scheme: visa, profiles: [visa-cvn18], icc_key_option: " + option
	if digits != "" {
		y += ", pan_digits: [" + digits + "]"
	}
	return y + `, keys: [{dki: "01", key_set: ` + set + ", version: 1}]}\n"
}

func TestPANsOfOneCardKey(t *testing.T) {
	for name, c := range map[string]struct {
		yaml, want string // want is empty if it is right
	}{
		"one BIN":                        {visa(`"476173"`, "A", "", "a"), ""},
		"five digits":                    {visa(`"47617"`, "A", "", "a"), ""},
		"a wide range":                   {visa(`"4000-4999"`, "A", "", "a"), "share their last 14"},
		"a wide range, option B":         {visa(`"4000-4999"`, "B", "19", "a"), ""},
		"option B up to 16":              {visa(`"4000-4999"`, "B", "16, 19", "a"), "share their last 14"},
		"long PANs of a short BIN":       {visa(`"1234"`, "A", "19", "a"), "share their last 14"},
		"two lengths apart":              {visa(`"476173"`, "A", "16, 19", "a"), ""},
		"two lengths that meet":          {visa(`"400000"`, "A", "16, 17", "a"), "share their last 14"},
		"two BINs apart":                 {visa(`"476173"`, "A", "", "a") + visa(`"436174"`, "A", "", "a"), ""},
		"two BINs that meet":             {visa(`"476173"`, "A", "", "a") + visa(`"436173"`, "A", "", "a"), "share their last 14"},
		"two BINs that meet, other keys": {visa(`"476173"`, "A", "", "a") + visa(`"436173"`, "A", "", "b"), ""},
		"short PANs":                     {visa(`"476173"`, "A", "12, 13, 14", "a"), ""},
		"no such length":                 {visa(`"476173"`, "A", "20", "a"), "pan_digits: must be 12 to 19"},
	} {
		_, err := ParseAssignments([]byte("assignments:\n" + c.yaml))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestLengthIsChecked(t *testing.T) {
	a, err := ParseAssignments([]byte("assignments:\n" + visa(`"476173"`, "A", "", "a")))
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Resolve(pan(t, "4761739001010119999"), iad(6, 1, 0x12, 3, 0xA0, 0, 0), "")
	var re *ResolveError
	if !errors.As(err, &re) || re.Field != "pan" || !strings.Contains(err.Error(), "19 digits") {
		t.Errorf("a longer PAN: %v", err)
	}
}

// TestNoTwoPANsHaveOneKeyInput draws assignments, and PANs that they serve: where
// they were taken, two PANs of one key set never have the same input of the ICC
// master key's derivation.
func TestNoTwoPANsHaveOneKeyInput(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, names := "assignments:\n", map[string]bool{}
		for range rapid.IntRange(1, 3).Draw(t, "assignments") {
			bin := rapid.StringMatching(`4[01][01]{2,4}`).Draw(t, "bin")
			digits := rapid.SampledFrom([]string{"", "16", "16, 17", "15, 16, 19", "19", "12"}).Draw(t, "digits")
			if names[bin] {
				continue
			}
			names[bin] = true
			text += visa(`"`+bin+`"`, rapid.SampledFrom([]string{"A", "B"}).Draw(t, "option"), digits, "a")
		}
		a, err := ParseAssignments([]byte(text))
		if err != nil {
			return
		}
		inputs := map[[16]byte]string{}
		for range 40 {
			n := rapid.SampledFrom([]int{15, 16, 17, 19}).Draw(t, "length")
			// Few different digits in front and the same ones behind, so that tails meet.
			number := ("4" + rapid.StringMatching(`[01]{8}`).Draw(t, "front") + "0000000000")[:n]
			p, err := cryptogram.ParsePAN(number)
			if err != nil {
				t.Fatal(err)
			}
			r, err := a.Resolve(p, iad(6, 1, 0x12, 3, 0xA0, 0, 0), "")
			if err != nil {
				continue
			}
			in := cryptogram.ICCMasterKeyInput(r.Option, p, cryptogram.PSN{})
			if other, taken := inputs[in]; taken && other != number {
				t.Fatalf("two PANs of %d and %d digits have one card key", len(other), n)
			}
			inputs[in] = number
		}
	})
}
