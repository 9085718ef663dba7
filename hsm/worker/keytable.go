package worker

import (
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// keyTable is what the manifest says about each key, read only after start.
type keyTable struct {
	byID    map[keys.ID]*servedKey
	entries []frame.KeyEntry // in the order of the manifest
	active  []keys.ID        // for verification

	// The subject keys in force, current first. Version 0 is none.
	subjects [2]keys.Version
}

type servedKey struct {
	use      keys.Use
	state    keys.State
	profiles []cryptogram.ProfileID
}

func newKeyTable(m *keys.Manifest) *keyTable {
	t := &keyTable{byID: map[keys.ID]*servedKey{}}
	t.subjects[0], t.subjects[1] = m.SubjectKeys()
	for i := range m.Sets {
		set := &m.Sets[i]
		for _, v := range set.Versions {
			t.byID[v.ID] = &servedKey{use: set.Use, state: v.State, profiles: set.Profiles}
			t.entries = append(t.entries, frame.KeyEntry{
				ID: v.ID, Set: set.Name, Version: v.Number, State: v.State, Use: set.Use, Profiles: set.Profiles,
			})
			if v.State == keys.Active && set.Use == keys.UseIssuerAC {
				t.active = append(t.active, v.ID)
			}
		}
	}
	return t
}

// permits checks what can be said about a request without the token. The
// second result is false if there is a status to answer.
func (t *keyTable) permits(id keys.ID, profile cryptogram.ProfileID) (frame.Status, bool) {
	k, ok := t.byID[id]
	switch {
	case !ok:
		return frame.StatusKeyUnknown, false
	case k.use != keys.UseIssuerAC: // not for verification, whatever a request says
		return frame.StatusNotBound, false
	case k.state != keys.Active:
		return frame.StatusKeyInactive, false
	}
	for _, p := range k.profiles {
		if p == profile {
			return 0, true
		}
	}
	return frame.StatusNotBound, false
}

// hashes reports whether there is a subject key.
func (t *keyTable) hashes() bool { return t.subjects[0].Number != 0 }

// hashed reports whether s are the subjects that an answer must have.
func (t *keyTable) hashed(s *[2]keys.Subject) bool {
	return s[0].Version == t.subjects[0].Number && s[1].Version == t.subjects[1].Number
}
