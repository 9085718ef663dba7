package worker

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"sync"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// Shape of the guess table: 16,384 sets of 8 entries of 24 bytes, 3 MiB.
const (
	guessWays = 8
	guessSets = 1 << 14
)

// guessCallers is by how much the limit of a subject, whoever asks, exceeds the
// limit of one caller. One caller alone cannot reach it, because its own limit
// stops it first (two of its windows can overlap one of the subject's, hence not
// 2), so it cannot lock the subject out for others. A daemon in wrong hands, which
// can name a new caller each time, can: it is bounded as much as 16 callers are.
const guessCallers = 16

// guessTable counts mismatches for each key and subject (PAN and sequence
// number), once for the caller and once whoever asks, each in a window that
// starts with its first one. Its memory is fixed. It is keyed by hashes with a
// seed of this process, so nobody can aim at a set, and no PAN is kept.
//
// A full set gives up its entry with the lowest count, and the newcomer
// inherits that count and its window; who is not in a full set counts as much
// as that entry. So within a window nobody is counted lower than deserved
// because a flood of others pushed the entry out. To be counted too high a set
// must have all its entries at the limit of one caller: with the defaults 4.3
// billion mismatches an hour over the table, each of which counts twice.
type guessTable struct {
	seed   maphash.Seed
	limit  uint32 // of a subject from one caller
	inAll  uint32 // of a subject from all of them
	window int64  // nanoseconds

	mu   sync.Mutex
	sets [guessSets][guessWays]guessEntry
}

type guessEntry struct {
	subject uint64 // hash; meaningful only with count > 0
	started int64  // CLOCK_MONOTONIC nanoseconds
	count   uint32
}

// A guessSubject is what one guess counts against, as hashes.
type guessSubject struct {
	ofCaller uint64 // key, subject and caller
	inAll    uint64 // key and subject
}

func newGuessTable(p GuessPolicy) *guessTable {
	p = p.orDefault()
	return &guessTable{
		seed: maphash.MakeSeed(), window: int64(p.Window),
		limit: p.Mismatches, inAll: uint32(min(guessCallers*uint64(p.Mismatches), math.MaxUint32)),
	}
}

// subject hashes what a guesser would have to keep. What the caller can choose
// freely comes last and is the only part whose length varies.
func (t *guessTable) subject(key *keys.ID, pan *cryptogram.PAN, psn cryptogram.PSN, caller uint32) guessSubject {
	const scope = keys.IDBytes + 1 // 0: in all, 1: of this caller
	var buf [scope + 1 + 4 + cryptogram.MaxPANDigits]byte
	b := append(buf[:0], key[:]...)
	b = append(b, psn.BCD(), 0, 0, 0, 0, 0)
	b = pan.AppendDigits(b)
	s := guessSubject{inAll: maphash.Bytes(t.seed, b)}
	b[scope] = 1
	binary.LittleEndian.PutUint32(b[scope+1:], caller)
	s.ofCaller = maphash.Bytes(t.seed, b)
	return s
}

// exhausted reports whether the caller has used up its guesses at the subject,
// or all callers together theirs.
func (t *guessTable) exhausted(s guessSubject, now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.spent(s.ofCaller, now) >= t.limit || t.spent(s.inAll, now) >= t.inAll
}

// spent is how many mismatches count against hash. The caller holds mu.
func (t *guessTable) spent(hash uint64, now int64) uint32 {
	lowest := uint32(math.MaxUint32) // of the entries that hash could displace
	set := &t.sets[hash%guessSets]
	for i := range set {
		e := &set[i]
		count := e.count
		if now-e.started >= t.window {
			count = 0
		}
		if e.subject == hash && e.count > 0 {
			return count
		}
		lowest = min(lowest, count)
	}
	return lowest
}

// mismatched counts one wrong cryptogram.
func (t *guessTable) mismatched(s guessSubject, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(s.ofCaller, now)
	t.count(s.inAll, now)
}

// count adds one mismatch to hash. The caller holds mu.
func (t *guessTable) count(hash uint64, now int64) {
	set := &t.sets[hash%guessSets]
	lowest := &set[0]
	for i := range set {
		e := &set[i]
		if e.count > 0 && now-e.started >= t.window {
			*e = guessEntry{}
		}
		if e.count > 0 && e.subject == hash {
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
	lowest.subject = hash
	lowest.count += min(1, ^lowest.count)
}
