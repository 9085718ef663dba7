package worker

import (
	"hash/maphash"
	"sync"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// Shape of the guess table: 16,384 sets of 8 entries of 24 bytes, 3 MiB.
const (
	guessWays = 8
	guessSets = 1 << 14
)

// guessTable counts mismatches for each key and subject (PAN and sequence
// number) in a window that starts with the first one. Its memory is fixed. It
// is keyed by a hash with a seed of this process, so nobody can aim at a set,
// and no PAN is kept.
//
// A full set gives up its entry with the lowest count, and the newcomer
// inherits that count and its window; who is not in a full set counts as much
// as that entry. So within a window nobody is counted lower than deserved
// because a flood of others pushed the entry out. To be counted too high a set
// must have all its entries at the limit: with the defaults 8.6 billion
// mismatches an hour over the table.
type guessTable struct {
	seed   maphash.Seed
	limit  uint32
	window int64 // nanoseconds

	mu   sync.Mutex
	sets [guessSets][guessWays]guessEntry
}

type guessEntry struct {
	subject uint64 // hash; meaningful only with count > 0
	started int64  // CLOCK_MONOTONIC nanoseconds
	count   uint32
}

func newGuessTable(p GuessPolicy) *guessTable {
	p = p.orDefault()
	return &guessTable{seed: maphash.MakeSeed(), limit: p.Mismatches, window: int64(p.Window)}
}

// subject hashes what a guesser would have to keep.
func (t *guessTable) subject(key *keys.ID, pan *cryptogram.PAN, psn cryptogram.PSN) uint64 {
	var buf [keys.IDBytes + 1 + cryptogram.MaxPANDigits]byte
	b := append(buf[:0], key[:]...)
	b = append(b, psn.BCD())
	b = pan.AppendDigits(b)
	return maphash.Bytes(t.seed, b)
}

// exhausted reports whether the subject has used up its guesses.
func (t *guessTable) exhausted(subject uint64, now int64) bool {
	set := &t.sets[subject%guessSets]
	t.mu.Lock()
	defer t.mu.Unlock()
	below := false // some entry that the subject could displace is below the limit
	for i := range set {
		e := &set[i]
		spent := e.count >= t.limit && now-e.started < t.window
		if e.subject == subject && e.count > 0 {
			return spent
		}
		below = below || !spent
	}
	return !below
}

// mismatched counts one wrong cryptogram.
func (t *guessTable) mismatched(subject uint64, now int64) {
	set := &t.sets[subject%guessSets]
	t.mu.Lock()
	defer t.mu.Unlock()
	lowest := &set[0]
	for i := range set {
		e := &set[i]
		if e.count > 0 && now-e.started >= t.window {
			*e = guessEntry{}
		}
		if e.count > 0 && e.subject == subject {
			e.count += min(1, ^e.count)
			return
		}
		if e.count < lowest.count {
			lowest = e
		}
	}
	if lowest.count == 0 {
		lowest.started = now
	}
	lowest.subject = subject
	lowest.count += min(1, ^lowest.count)
}
