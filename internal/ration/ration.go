// Package ration writes log lines that strangers can cause without letting them
// fill the disk.
package ration

import (
	"log/slog"
	"sync"
	"time"
)

const (
	every    = 10 * time.Second // between two lines of one kind
	maxKinds = 4096             // kinds that are told apart
)

// A Log writes a line of one kind at most every ten seconds, with the
// number of those it kept back: who is refused must leave a trace, and must not
// be able to fill the disk with it.
type Log struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	kinds map[string]*ration
}

type ration struct {
	last time.Time
	kept int
}

// New rations the lines of log.
func New(log *slog.Logger) *Log {
	return &Log{log: log, now: time.Now, kinds: make(map[string]*ration)}
}

// Warn writes a line unless one of its kind was written a short while ago.
func (r *Log) Warn(kind, message string, args ...any) {
	if kept, ok := r.take(kind); ok {
		r.log.Warn(message, append(args, "kept_back", kept)...)
	}
}

func (r *Log) take(kind string) (kept int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	k := r.kinds[kind]
	switch {
	case k == nil && len(r.kinds) >= maxKinds && !r.forget(now):
		return 0, false // too many kinds at once are noise
	case k == nil:
		k = &ration{}
		r.kinds[kind] = k
	case now.Sub(k.last) < every:
		k.kept++
		return 0, false
	}
	kept = k.kept
	k.last, k.kept = now, 0
	return kept, true
}

// forget makes room by dropping the kinds whose time is over.
func (r *Log) forget(now time.Time) bool {
	for kind, k := range r.kinds {
		if now.Sub(k.last) >= every {
			delete(r.kinds, kind)
		}
	}
	return len(r.kinds) < maxKinds
}
