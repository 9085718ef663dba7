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
	active  []keys.ID
}

type servedKey struct {
	state    keys.State
	profiles []cryptogram.ProfileID
}

func newKeyTable(m *keys.Manifest) *keyTable {
	t := &keyTable{byID: map[keys.ID]*servedKey{}}
	for i := range m.Sets {
		set := &m.Sets[i]
		if set.Use != keys.UseIssuerAC {
			continue // not for verification, whatever a request says
		}
		for _, v := range set.Versions {
			t.byID[v.ID] = &servedKey{state: v.State, profiles: set.Profiles}
			t.entries = append(t.entries, frame.KeyEntry{
				ID: v.ID, Set: set.Name, Version: v.Number, State: v.State, Profiles: set.Profiles,
			})
			if v.State == keys.Active {
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
