package server

import (
	"log/slog"
	"sync"
	"time"
)

const (
	rationEvery = 10 * time.Second // between two lines of one kind
	maxRations  = 4096             // kinds that are told apart
)

// A rationed log writes a line of one kind at most every ten seconds, with the
// number of those it kept back: who is refused must leave a trace, and must not
// be able to fill the disk with it.
type rationed struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	kinds map[string]*ration
}

type ration struct {
	last time.Time
	kept int
}

func newRationed(log *slog.Logger) *rationed {
	return &rationed{log: log, now: time.Now, kinds: make(map[string]*ration)}
}

// warn writes a line unless one of its kind was written a short while ago.
func (r *rationed) warn(kind, message string, args ...any) {
	if kept, ok := r.take(kind); ok {
		r.log.Warn(message, append(args, "kept_back", kept)...)
	}
}

func (r *rationed) take(kind string) (kept int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	k := r.kinds[kind]
	switch {
	case k == nil && len(r.kinds) >= maxRations && !r.forget(now):
		return 0, false // too many kinds at once are noise
	case k == nil:
		k = &ration{}
		r.kinds[kind] = k
	case now.Sub(k.last) < rationEvery:
		k.kept++
		return 0, false
	}
	kept = k.kept
	k.last, k.kept = now, 0
	return kept, true
}

// forget makes room by dropping the kinds whose time is over.
func (r *rationed) forget(now time.Time) bool {
	for kind, k := range r.kinds {
		if now.Sub(k.last) >= rationEvery {
			delete(r.kinds, kind)
		}
	}
	return len(r.kinds) < maxRations
}
