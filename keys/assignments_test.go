package keys

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
)

const goodAssignments = `
assignments:
  - name: visa
    bins: ["476173", "47618000-47618999"]
    scheme: visa
    profiles: [visa-cvn10, visa-cvn18]
    icc_key_option: B
    keys:
      - {dki: "01", key_set: visa-test, version: 1}
      - {dki: "02", key_set: visa-test, version: 2}
  - name: mastercard
    bins: ["541333"]
    scheme: mastercard
    profiles: [mastercard-cvn16]
    keys:
      - {dki: "00", key_set: mastercard-test, version: 1}
  - name: interac
    bins: ["1234"]
    scheme: interac
    profiles: [interac-cvn133]
    keys:
      - {dki: any, key_set: interac-test, version: 3}
`

func pan(t testing.TB, s string) cryptogram.PAN {
	t.Helper()
	p, err := cryptogram.ParsePAN(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func iad(b ...byte) cryptogram.IAD {
	i := cryptogram.IAD{Len: uint8(len(b))}
	copy(i.Bytes[:], b)
	return i
}

func mustParse(t testing.TB) *Assignments {
	t.Helper()
	a, err := ParseAssignments([]byte(goodAssignments))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestResolve(t *testing.T) {
	a := mustParse(t)
	mchip := iad(0x00, 0x10, 0xA0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for _, tc := range []struct {
		name, pan string
		iad       cryptogram.IAD
		profile   string
		want      Resolution
		wantName  string
	}{
		{
			"visa cvn18", "4761739001010119", iad(6, 1, 0x12, 3, 0xA0, 0, 0), "",
			Resolution{Assignment: "visa", Option: cryptogram.OptionB, KeySet: "visa-test", KeyVersion: 1},
			"visa-cvn18",
		},
		{
			"second range and key, option fixed by the profile", "4761855001010119", iad(6, 2, 0x0A, 3, 0xA0, 0, 0), "",
			Resolution{Assignment: "visa", Option: cryptogram.OptionA, KeySet: "visa-test", KeyVersion: 2},
			"visa-cvn10",
		},
		{
			"named and said alike", "4761739001010119", iad(6, 1, 0x12, 3, 0xA0, 0, 0), "visa-cvn18",
			Resolution{Assignment: "visa", Option: cryptogram.OptionB, KeySet: "visa-test", KeyVersion: 1},
			"visa-cvn18",
		},
		{
			"mastercard", "5413339000006165", mchip, "",
			Resolution{Assignment: "mastercard", Option: cryptogram.OptionA, KeySet: "mastercard-test", KeyVersion: 1},
			"mastercard-cvn16",
		},
		{
			"named only", "1234567890123456", iad(0x15, 1, 0x85), "interac-cvn133",
			Resolution{Assignment: "interac", Option: cryptogram.OptionA, KeySet: "interac-test", KeyVersion: 3},
			"interac-cvn133",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := a.Resolve(pan(t, tc.pan), tc.iad, tc.profile)
			if err != nil {
				t.Fatal(err)
			}
			if got.Profile.Name != tc.wantName {
				t.Fatalf("profile %s, want %s", got.Profile.Name, tc.wantName)
			}
			if got.Policy == nil {
				t.Fatal("no policy")
			}
			got.Profile, got.Policy = nil, nil
			if got != tc.want {
				t.Fatalf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	a := mustParse(t)
	visa := iad(6, 1, 0x12, 3, 0xA0, 0, 0)
	for _, tc := range []struct {
		name, pan string
		iad       cryptogram.IAD
		profile   string
		want      string
	}{
		{"no assignment", "4999999999999999", visa, "", "pan: no assignment"},
		{"just below a range", "4761799999999999", visa, "", "pan: no assignment"},
		{"just above a range", "4761900000000000", visa, "", "pan: no assignment"},
		{"unknown profile", "4761739001010119", visa, "visa-cvn99", "profile: unknown"},
		{"profile of another scheme", "4761739001010119", visa, "mastercard-cvn16", "not of scheme visa"},
		{"card says another", "4761739001010119", visa, "visa-cvn10", "tag 9F10 says visa-cvn18"},
		{"not of this issuer", "4761739001010119", append22(), "", "not among the profiles"},
		{"unknown CVN", "4761739001010119", iad(6, 1, 0x77, 3, 0xA0, 0, 0), "", "9F10"},
		{"unknown DKI", "4761739001010119", iad(6, 9, 0x12, 3, 0xA0, 0, 0), "", "unknown derivation key index 09"},
		{"no IAD", "4761739001010119", cryptogram.IAD{}, "", "9F10"},
		{"must be named", "1234567890123456", iad(0x15, 1, 0x85), "", "must be named"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := a.Resolve(pan(t, tc.pan), tc.iad, tc.profile)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %+v and %v, want %q", r, err, tc.want)
			}
			if r != (Resolution{}) {
				t.Fatal("an error came with a resolution")
			}
			if strings.Contains(err.Error(), tc.pan[4:]) {
				t.Fatal("the error shows the PAN")
			}
			var re *ResolveError
			var te cryptogram.TagError
			if !errors.As(err, &re) && !errors.As(err, &te) {
				t.Fatalf("error %T is of no safe type", err)
			}
		})
	}
}

// append22 is a Visa format 2 IAD with CVN 22, which the test's issuer does not use.
func append22() cryptogram.IAD {
	b := make([]byte, 32)
	b[0], b[1], b[2] = 0x1F, 0x22, 0x01
	return iad(b...)
}

func TestAssignmentsRefuse(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", "scheme: visa", "scheme: visa\n    colour: red", `unknown key "colour"`},
		{"unknown scheme", "scheme: visa", "scheme: vista", `unknown scheme "vista"`},
		{"option missing", "    icc_key_option: B\n", "", "icc_key_option: must be A or B"},
		{"option wrong", "icc_key_option: B", "icc_key_option: C", "icc_key_option: must be A or B"},
		{"option not wanted", "scheme: mastercard", "scheme: mastercard\n    icc_key_option: A", "remove the key"},
		{"profile of another scheme", "visa-cvn10,", "mastercard-cvn16,", "not of scheme visa"},
		{"dki twice", `dki: "02"`, `dki: "01"`, "given twice"},
		{"dki long", `dki: "02"`, `dki: "0201"`, "two hexadecimal digits"},
		{"dki any where there is one", `dki: "02"`, `dki: any`, "two hexadecimal digits"},
		{"dki where there is none", "dki: any", `dki: "01"`, `dki must be "any"`},
		{"version zero", "version: 3", "version: 0", "version must be"},
		{"overlap", `"541333"`, `"47618500"`, `"visa" and "mastercard" overlap`},
		{"same range twice", `"476173", `, `"476173", "4761", `, "overlap"},
		{"short bin", `"541333"`, `"541"`, "4 to 11 digits"},
		{"a whole PAN", `"541333"`, `"5413339000006165"`, "4 to 11 digits"},
		{"range backwards", "47618000-47618999", "47618999-47618000", "ends before it begins"},
		{"range uneven", "47618000-47618999", "47618-47618999", "same number of digits"},
		{"letters", `"541333"`, `"54133x"`, "must be digits"},
		{"name twice", "name: mastercard", "name: visa", "used twice"},
		{"no bins", `["541333"]`, "[]", "bins"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := strings.Replace(goodAssignments, tc.old, tc.new, 1)
			if in == goodAssignments {
				t.Fatal("the case changes nothing")
			}
			_, err := ParseAssignments([]byte(in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

// TestFindRange compares the binary search with a scan that compares digits.
func TestFindRange(t *testing.T) {
	digits := rapid.StringMatching(`[0-9]{12,19}`)
	bin := rapid.StringMatching(`[0-4]{4,6}`)
	rapid.Check(t, func(rt *rapid.T) {
		var rs []panRange
		var bins []string
		for _, b := range rapid.SliceOfN(bin, 1, 8).Draw(rt, "bins") {
			taken := false
			for _, have := range bins {
				taken = taken || strings.HasPrefix(b, have) || strings.HasPrefix(have, b)
			}
			if taken {
				continue
			}
			r, err := parseRange(b)
			if err != nil {
				rt.Fatal(err)
			}
			r.owner = len(bins)
			bins = append(bins, b)
			rs = append(rs, r)
		}
		if err := sortRanges(rs); err != nil {
			rt.Fatal(err)
		}
		s := digits.Draw(rt, "pan")
		if rapid.Bool().Draw(rt, "inside") {
			s = bins[0] + s[len(bins[0]):]
		}
		want, inside := 0, false
		for i, b := range bins {
			if strings.HasPrefix(s, b) {
				want, inside = i, true
			}
		}
		p := pan(t, s)
		if got, ok := findRange(rs, &p); ok != inside || got != want {
			rt.Fatalf("got %d, %v, want %d, %v", got, ok, want, inside)
		}
	})
}

func TestResolveDoesNotAllocate(t *testing.T) {
	a, p, i := mustParse(t), pan(t, "4761739001010119"), iad(6, 1, 0x12, 3, 0xA0, 0, 0)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := a.Resolve(p, i, ""); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
