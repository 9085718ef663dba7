package hsm

import (
	"slices"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// KeyInfo is what the workers say about one version of a key set. It is a
// copy for the daemon's decisions: the worker decides again for itself.
type KeyInfo struct {
	ID       keys.ID
	State    keys.State
	Profiles []cryptogram.ProfileID // shared, read only
}

// Serves reports whether the key is bound to the profile.
func (k KeyInfo) Serves(p cryptogram.ProfileID) bool { return slices.Contains(k.Profiles, p) }

// keyName is how assignments name a key.
type keyName struct {
	set     string
	version uint32
}
