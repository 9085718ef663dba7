package keys

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
)

func subjectOf(t rapid.TB, pan, psn string) SubjectInput {
	t.Helper()
	p, err := cryptogram.ParsePAN(pan)
	if err != nil {
		t.Fatal("bad PAN in a test")
	}
	s, err := cryptogram.ParsePSN(psn)
	if err != nil {
		t.Fatal("bad sequence number in a test")
	}
	return NewSubjectInput(&p, s)
}

// The encoding is for ever: what is stored under it must be found again.
func TestSubjectInput(t *testing.T) {
	for _, tc := range []struct{ pan, psn, want string }{
		{"4111111111111111", "01", "7461707365616c207375626a65637420763100" + "10" + "34313131313131313131313131313131" + "01"},
		{"123456789012", "99", "7461707365616c207375626a65637420763100" + "0c" + "313233343536373839303132" + "99"},
	} {
		s := subjectOf(t, tc.pan, tc.psn)
		if got := hex.EncodeToString(s.Bytes()); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
	}
	longest := subjectOf(t, strings.Repeat("9", cryptogram.MaxPANDigits), "00")
	if len(longest.Bytes()) != MaxSubjectInputBytes {
		t.Errorf("the longest has %d bytes, want %d", len(longest.Bytes()), MaxSubjectInputBytes)
	}
	if none := NewSubjectInput(&cryptogram.PAN{}, cryptogram.PSN{}); !none.IsZero() || len(none.Bytes()) != 0 {
		t.Error("no PAN is a subject")
	}
	if max(len(SubjectCheckInput), len(SubjectCanaryInput)) > MaxSubjectInputBytes {
		t.Error("a fixed input is too long for the token's buffer")
	}
}

// Two subjects never have one input.
func TestSubjectInputsAreDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pan, psn := rapid.StringMatching("[0-9]{12,19}"), rapid.StringMatching("[0-9]{2}")
		p1, p2, s1, s2 := pan.Draw(t, "pan"), pan.Draw(t, "other"), psn.Draw(t, "psn"), psn.Draw(t, "other")
		a, b := subjectOf(t, p1, s1), subjectOf(t, p2, s2)
		if same := p1 == p2 && s1 == s2; same != (string(a.Bytes()) == string(b.Bytes())) {
			t.Fatal("inputs are equal exactly if the subjects are: no")
		}
	})
}

func TestSubjectsPrintNothing(t *testing.T) {
	in := subjectOf(t, "4111111111111111", "01")
	hashed := Subject{Version: 7, Hash: [SubjectBytes]byte{0x41, 0x11}}
	for _, v := range []any{in, &in, hashed, &hashed, []any{in, hashed}, struct{ S Subject }{hashed}} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{
			fmt.Sprint(v), fmt.Sprintf("%+v %#v %x %d %q", v, v, v, v, v), string(text),
		} {
			if strings.Contains(s, "411") || strings.Contains(s, "17") || strings.Contains(s, "65") {
				t.Errorf("%T shows itself", v)
			}
		}
	}
}

func TestVersionsInForce(t *testing.T) {
	v := func(number uint32, s State) Version { return Version{Number: number, State: s} }
	for _, tc := range []struct {
		name              string
		in                []Version
		current, previous uint32
	}{
		{"none", nil, 0, 0},
		{"one", []Version{v(1, Active)}, 1, 0},
		{"rotation", []Version{v(1, Active), v(2, Active)}, 2, 1},
		{"any order", []Version{v(2, Active), v(1, Active)}, 2, 1},
		{"three", []Version{v(1, Active), v(2, Active), v(3, Active)}, 3, 2},
		{"staged", []Version{v(1, Active), v(2, PreActive)}, 1, 0},
		{"retired", []Version{v(1, Deactivated), v(2, Active)}, 2, 0},
		{"a gap", []Version{v(1, Active), v(2, Compromised), v(3, Active)}, 3, 1},
		{"nothing active", []Version{v(1, Suspended), v(2, Destroyed)}, 0, 0},
	} {
		if current, previous := InForce(tc.in); current.Number != tc.current || previous.Number != tc.previous {
			t.Errorf("%s: %d and %d, want %d and %d", tc.name, current.Number, previous.Number, tc.current, tc.previous)
		}
	}
	if current, _ := (&Manifest{Sets: []Set{{Use: UseIssuerAC, Versions: []Version{v(1, Active)}}}}).SubjectKeys(); current.Number != 0 {
		t.Error("an issuer key hashes subjects")
	}
}
