package keys

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/cryptogram"
)

const goodManifest = `
deployment: test
key_sets:
  - name: visa-test
    use: issuer-ac
    profiles: [visa-cvn10, visa-cvn18]
    versions:
      - version: 1
        id: "000102030405060708090a0b0c0d0e0f"
        state: active
        check_value: "08d7b4"
        canary: "0011223344556677"
      - version: 2
        id: "100102030405060708090a0b0c0d0e0f"
        state: pre-active
        check_value: "08d7b4"
        canary: "0011223344556677"
`

func TestManifestRoundTrip(t *testing.T) {
	m, err := ParseManifest([]byte(goodManifest))
	if err != nil {
		t.Fatal(err)
	}
	s := m.Sets[0]
	if s.Name != "visa-test" || s.Use != UseIssuerAC || len(s.Versions) != 2 {
		t.Fatalf("got %+v", s)
	}
	if v := s.Versions[0]; v.Number != 1 || v.State != Active || !v.State.Verifies() || v.CheckValue != [3]byte{0x08, 0xd7, 0xb4} {
		t.Fatalf("got %+v", v)
	}
	if s.Versions[1].State.Verifies() {
		t.Fatal("a pre-active key verifies")
	}
	out, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseManifest(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, again); diff != "" {
		t.Fatal(diff)
	}
}

func TestManifestRefuses(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", "use: issuer-ac", "use: issuer-ac\n    usage: x", `unknown key "usage"`},
		{"deployment", "deployment: test", "deployment: Test", "deployment"},
		{"set name", "name: visa-test", "name: Visa", "name must be"},
		{"use", "use: issuer-ac", "use: pin", `unknown use "pin"`},
		{"profile", "visa-cvn10,", "visa-cvn99,", `unknown profile "visa-cvn99"`},
		{"profile twice", "visa-cvn10,", "visa-cvn18,", "named twice"},
		{"two schemes", "visa-cvn10,", "mastercard-cvn16,", "one scheme"},
		{"no profile", "[visa-cvn10, visa-cvn18]", "[]", "profiles"},
		{"version zero", "version: 1", "version: 0", "version must be"},
		{"version order", "version: 2", "version: 1", "above the one before"},
		{"state", "state: active", "state: on", `unknown state "on"`},
		{"id length", `"000102030405060708090a0b0c0d0e0f"`, `"00"`, "key id"},
		{"id zero", `"000102030405060708090a0b0c0d0e0f"`, `"00000000000000000000000000000000"`, "all zero"},
		{"id not hex", `"000102030405060708090a0b0c0d0e0f"`, `"zz0102030405060708090a0b0c0d0e0f"`, "key id"},
		{"id twice", `"100102030405060708090a0b0c0d0e0f"`, `"000102030405060708090a0b0c0d0e0f"`, "also the id of"},
		{"check value", `check_value: "08d7b4"`, `check_value: "08d7"`, "check_value"},
		{"canary", `canary: "0011223344556677"`, `canary: "00112233445566zz"`, "canary"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := strings.Replace(goodManifest, tc.old, tc.new, 1)
			if in == goodManifest {
				t.Fatal("the case changes nothing")
			}
			_, err := ParseManifest([]byte(in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

func TestSetNameTwice(t *testing.T) {
	second := strings.SplitN(goodManifest, "key_sets:", 2)[1]
	second = strings.ReplaceAll(strings.ReplaceAll(second, `"00010`, `"a0010`), `"10010`, `"b0010`)
	_, err := ParseManifest([]byte(goodManifest + second))
	if err == nil || !strings.Contains(err.Error(), "used twice") {
		t.Fatalf("got %v", err)
	}
}

func TestOnlyActiveVerifies(t *testing.T) {
	for s := range State(8) {
		if got, want := s.Verifies(), s == Active; got != want {
			t.Errorf("%v verifies: %v", s, got)
		}
	}
}

func TestMarshalUnknownProfile(t *testing.T) {
	m := Manifest{Deployment: "x", Sets: []Set{{Name: "a", Profiles: []cryptogram.ProfileID{999}}}}
	if _, err := m.Marshal(); err == nil {
		t.Fatal("wrote a manifest that cannot be read back")
	}
}

const subjectSet = `
  - name: subjects
    use: subject-hash
    versions:
      - {version: 1, id: "a00102030405060708090a0b0c0d0e0f", state: active, check_value: "010203", canary: "0011223344556677"}
      - {version: 2, id: "a10102030405060708090a0b0c0d0e0f", state: active, check_value: "010203", canary: "0011223344556677"}
`

func TestSubjectSet(t *testing.T) {
	m, err := ParseManifest([]byte(goodManifest + subjectSet))
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Sets[1]; s.Use != UseSubjectHash || s.Profiles != nil || s.Use.String() != "subject-hash" {
		t.Errorf("got %+v", s)
	}
	if current, previous := m.SubjectKeys(); current.Number != 2 || previous.Number != 1 {
		t.Errorf("versions %d and %d are in force", current.Number, previous.Number)
	}
	out, err := m.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseManifest(out)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, again); diff != "" {
		t.Fatal(diff)
	}
	for name, tc := range map[string]struct{ in, want string }{
		"profiles":    {strings.Replace(subjectSet, "    versions:", "    profiles: [visa-cvn10]\n    versions:", 1), "serves none"},
		"no profiles": {strings.Replace(subjectSet, "    versions:", "    profiles: []\n    versions:", 1), "serves none"},
		"three active": {subjectSet + `      - {version: 3, id: "a20102030405060708090a0b0c0d0e0f", state: active, check_value: "010203", canary: "0011223344556677"}
`, "3 are active"},
		"a second": {subjectSet + strings.NewReplacer("name: subjects", "name: others", `"a0`, `"b0`, `"a1`, `"b1`).Replace(
			strings.TrimPrefix(subjectSet, "\n")), "one set of use subject-hash"},
	} {
		if _, err := ParseManifest([]byte(goodManifest + tc.in)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q in it", name, err, tc.want)
		}
	}
}
