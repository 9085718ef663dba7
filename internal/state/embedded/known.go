package embedded

import (
	"sync"
	"sync/atomic"

	"github.com/tapseal/tapseal/internal/state"
)

// known has the versions of records that were read or written a moment ago, so
// that a commit need not look up again what its batch has just read. What it has
// is right or absent, never old:
//
//   - Only the committer changes records. It numbers its changes, and says in
//     begun, under the lock, that one is coming and what it makes of the
//     versions here; in applied, that the change can be seen.
//   - A reader notes applied before it takes its view. What it has read is
//     right still if no change has begun since, which learn looks at under the
//     same lock.
//
// A generation that is full replaces the one before it, so that an entry never
// outlives a newer one of the same key.
type known struct {
	begun   atomic.Uint64 // the last change that may be visible
	applied atomic.Uint64 // the last one that is

	mu          sync.Mutex // guards what follows, and begun together with it
	now, before map[state.Key]uint64
}

// knownRecords are those of one generation: some batches.
const knownRecords = 4 * state.MaxBatchRows

func newKnown() *known {
	return &known{now: make(map[state.Key]uint64, knownRecords), before: make(map[state.Key]uint64, knownRecords)}
}

// learn takes the versions of rows that were read in a view taken after change
// number applied could be seen.
func (k *known) learn(applied uint64, rows []*state.Row) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.begun.Load() != applied {
		return
	}
	for _, r := range rows {
		k.set(&r.Key, r.Version)
	}
}

// begin says that change number n is coming, and which records it writes.
func (k *known) begin(n uint64, r *request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.begun.Store(n)
	for i := range r.writes {
		if w := &r.writes[i]; r.ok[w.row] {
			k.set(&w.key, w.version+1)
		}
	}
}

func (k *known) set(key *state.Key, version uint64) {
	if len(k.now) >= knownRecords {
		k.now, k.before = k.before, k.now
		clear(k.now)
	}
	k.now[*key] = version
}

// versions compares the versions of a commit's records with those known, marks
// the writes of records that are not, and counts them.
func (k *known) versions(r *request) (unknown int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range r.writes {
		w := &r.writes[i]
		version, ok := k.now[w.key]
		if !ok {
			version, ok = k.before[w.key]
		}
		w.unknown = !ok
		switch {
		case !ok:
			unknown++
		case version != w.version:
			r.ok[w.row] = false
		}
	}
	return unknown
}
