package softhsmconfig

import (
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/phone"
	"github.com/tapseal/tapseal/keys"
)

// TestEveryProfileHasACard keeps phone, key sets, assignments and the
// verifier's table in step.
func TestEveryProfileHasACard(t *testing.T) {
	assignments, err := keys.ParseAssignments(assignmentsYAML)
	if err != nil {
		t.Fatal(err)
	}
	cards, err := DemoCards()
	if err != nil {
		t.Fatal(err)
	}
	byProfile := map[string]phone.Card{}
	for _, c := range cards {
		if _, twice := byProfile[c.Profile]; twice {
			t.Errorf("%s has two cards", c.Profile)
		}
		byProfile[c.Profile] = c
	}
	for _, p := range cryptogram.Profiles() {
		c, ok := byProfile[p.Name]
		if !ok {
			t.Errorf("%s has no card", p.Name)
			continue
		}
		pan, err := cryptogram.ParsePAN(c.PAN)
		if err != nil {
			t.Errorf("%s: %v", p.Name, err)
			continue
		}
		if r, err := assignments.Resolve(pan, iadFor(p), p.Name); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		} else if r.Profile.ID != p.ID {
			t.Errorf("%s resolves to %s", p.Name, r.Profile.Name)
		}
	}
	if got, want := len(cards), len(cryptogram.Profiles()); got != want {
		t.Errorf("%d cards, want %d", got, want)
	}
}

// iadFor is an issuer application data that says profile p and key index 01.
func iadFor(p cryptogram.Profile) (iad cryptogram.IAD) {
	set := func(b ...byte) {
		copy(iad.Bytes[:], b)
	}
	switch {
	case p.SelectedBy == cryptogram.SelectedByCaller:
	case p.Scheme == cryptogram.SchemeCCD:
		iad.Len = 32
		set(0x0F, 0xA5, 0x01)
		iad.Bytes[16] = 0x0F
	case p.Scheme == cryptogram.SchemeMastercard:
		iad.Len = 18
		set(0x01, p.CVN)
	case p.CVN>>4 == 2:
		iad.Len = 32
		set(0x1F, p.CVN, 0x01, 0x03)
	default:
		iad.Len = 7
		set(0x06, 0x01, p.CVN, 0x03)
	}
	return iad
}

func TestSetsAreBoundToTheirScheme(t *testing.T) {
	bound := map[cryptogram.ProfileID]string{}
	for _, set := range demoSets() {
		if _, err := set.value(); err != nil {
			t.Error(err)
		}
		ids := set.profiles()
		if len(ids) == 0 {
			t.Errorf("%s is bound to no profile", set.name)
		}
		for _, id := range ids {
			if other, taken := bound[id]; taken {
				t.Errorf("profile %d is bound to %s and %s", id, other, set.name)
			}
			bound[id] = set.name
		}
	}
	if got, want := len(bound), len(cryptogram.Profiles()); got != want {
		t.Errorf("%d profiles are bound, want %d", got, want)
	}
}
