package hsm

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// KeyInfo is what the workers say about one version of a key set. It is a
// copy for the daemon's decisions: the worker decides again for itself.
type KeyInfo struct {
	ID       keys.ID
	State    keys.State
	Use      keys.Use
	Profiles []cryptogram.ProfileID // shared, read only
}

// Serves reports whether the key is bound to the profile.
func (k KeyInfo) Serves(p cryptogram.ProfileID) bool { return slices.Contains(k.Profiles, p) }

// keyName is how assignments name a key.
type keyName struct {
	set     string
	version uint32
}

// keyTables merges the tables of the usable connections. It has a lock of its
// own, so that merging ten thousand keys does not hold up calls.
type keyTables struct {
	mu     sync.Mutex
	conns  []*conn // in order of admission
	merged atomic.Pointer[map[keyName]KeyInfo]

	subjects atomic.Uint64 // subjectVersions of the newest connection, packed
}

// Key looks up a key in the tables of the connected workers, or in the last
// known ones when none is connected. It takes no lock.
func (p *Pool) Key(set string, version uint32) (KeyInfo, bool) {
	m := p.tables.merged.Load()
	if m == nil {
		return KeyInfo{}, false
	}
	k, ok := (*m)[keyName{set, version}]
	return k, ok
}

// add merges the table of a new connection. Where workers disagree, the newest
// one wins: it read the manifest last.
func (t *keyTables) add(c *conn, log *slog.Logger) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.merged.Load()
	t.conns = append(t.conns, c)
	t.merge()
	if before == nil {
		return
	}
	for _, e := range c.keys {
		if old, ok := (*before)[keyName{e.Set, e.Version}]; ok && (old.ID != e.ID || old.State != e.State) {
			log.Warn("worker changes what was known of a key", c.attrs(
				slog.String("key_set", e.Set), slog.Uint64("key_version", uint64(e.Version)))...)
		}
	}
}

// remove takes out the table of a lost connection, unless it is the last: while
// no worker is there, a key is not reachable, but it is not unknown either.
func (t *keyTables) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns = slices.DeleteFunc(t.conns, func(x *conn) bool { return x == c })
	if len(t.conns) > 0 {
		t.merge()
	}
}

func (t *keyTables) merge() {
	m := make(map[keyName]KeyInfo)
	for _, c := range t.conns {
		for _, e := range c.keys {
			m[keyName{e.Set, e.Version}] = KeyInfo{ID: e.ID, State: e.State, Use: e.Use, Profiles: e.Profiles}
		}
	}
	t.merged.Store(&m)
	t.subjects.Store(t.conns[len(t.conns)-1].versions.pack())
}

// checkTable refuses a table that names one key twice or does not name one, and
// one with two sets of subject keys.
func checkTable(entries []frame.KeyEntry) error {
	seen := make(map[keyName]bool, len(entries))
	subjects := ""
	for i := range entries {
		e := &entries[i]
		n := keyName{e.Set, e.Version}
		switch {
		case e.ID == keys.ID{}, e.Set == "", e.Version == 0:
			return errors.New("key table has an entry without a name")
		case e.State < keys.PreActive || e.State > keys.Destroyed:
			return errors.New("key table has an entry in no known state")
		case !e.Use.Known():
			return errors.New("key table has an entry of no known use")
		case e.Use == keys.UseSubjectHash && subjects != "" && subjects != e.Set:
			return errors.New("key table has two sets of subject keys")
		case seen[n]:
			return errors.New("key table names a key twice")
		}
		seen[n] = true
		if e.Use == keys.UseSubjectHash {
			subjects = e.Set
		}
	}
	return nil
}
