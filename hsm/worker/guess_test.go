package worker

import (
	"fmt"
	"testing"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

func testPAN(t testing.TB, n int) cryptogram.PAN {
	t.Helper()
	p, err := cryptogram.ParsePAN(fmt.Sprintf("4%015d", n))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGuessTableLimit(t *testing.T) {
	g := newGuessTable(GuessPolicy{Mismatches: 3, Window: time.Second})
	pan := testPAN(t, 1)
	key := keys.ID{1}
	s := g.subject(&key, &pan, cryptogram.PSN{}, 7)
	const start = int64(1_000_000)
	for i := range 3 {
		if g.exhausted(s, start) {
			t.Fatalf("exhausted after %d mismatches, limit is 3", i)
		}
		g.mismatched(s, start+int64(i))
	}
	if !g.exhausted(s, start+10) {
		t.Error("not exhausted after 3 mismatches")
	}
	if !g.exhausted(s, start+int64(time.Second)-1) {
		t.Error("the window ended early")
	}
	if g.exhausted(s, start+int64(time.Second)) {
		t.Error("the window does not end")
	}
	g.mismatched(s, start+int64(time.Second))
	if g.exhausted(s, start+int64(time.Second)) {
		t.Error("a new window starts with the count of the old one")
	}
}

func TestGuessTableSubjectsAreApart(t *testing.T) {
	g := newGuessTable(GuessPolicy{Mismatches: 1})
	p1, p2 := testPAN(t, 1), testPAN(t, 2)
	psn, err := cryptogram.ParsePSN("01")
	if err != nil {
		t.Fatal(err)
	}
	k1, k2 := keys.ID{1}, keys.ID{2}
	g.mismatched(g.subject(&k1, &p1, cryptogram.PSN{}, 7), 1)
	for name, s := range map[string]guessSubject{
		"other key":             g.subject(&k2, &p1, cryptogram.PSN{}, 7),
		"other PAN":             g.subject(&k1, &p2, cryptogram.PSN{}, 7),
		"other sequence number": g.subject(&k1, &p1, psn, 7),
		"other caller":          g.subject(&k1, &p1, cryptogram.PSN{}, 8),
		"caller not said":       g.subject(&k1, &p1, cryptogram.PSN{}, 0),
	} {
		if g.exhausted(s, 2) {
			t.Errorf("%s: exhausted by another subject", name)
		}
	}
	if !g.exhausted(g.subject(&k1, &p1, cryptogram.PSN{}, 7), 2) {
		t.Error("the subject itself is not exhausted")
	}
}

// One caller that never stops exhausts its own guesses and nobody else's, however
// many windows it fills.
func TestGuessTableOneCaller(t *testing.T) {
	g := newGuessTable(GuessPolicy{Mismatches: 10, Window: time.Second})
	pan, key := testPAN(t, 1), keys.ID{1}
	guesser, other := g.subject(&key, &pan, cryptogram.PSN{}, 7), g.subject(&key, &pan, cryptogram.PSN{}, 8)
	compared := 0
	for now := int64(1); now < int64(20*time.Second); now += int64(10 * time.Millisecond) {
		if !g.exhausted(guesser, now) {
			compared++
			g.mismatched(guesser, now)
		}
		if g.exhausted(other, now) {
			t.Fatalf("another caller is shut out after %d mismatches", compared)
		}
	}
	if compared != 200 {
		t.Errorf("%d guesses in 20 windows, want 200", compared)
	}
}

// Who can name any caller is bounded all the same.
func TestGuessTableManyCallers(t *testing.T) {
	const limit = 3
	for name, each := range map[string]int{"16 callers": limit, "a new caller each time": 1} {
		g := newGuessTable(GuessPolicy{Mismatches: limit})
		pan, key := testPAN(t, 1), keys.ID{1}
		compared := 0
		for caller := range uint32(1000) {
			for range each {
				if s := g.subject(&key, &pan, cryptogram.PSN{}, caller); !g.exhausted(s, 1) {
					compared++
					g.mismatched(s, 1)
				}
			}
		}
		if compared != guessCallers*limit {
			t.Errorf("%s: %d guesses, want %d", name, compared, guessCallers*limit)
		}
		other := testPAN(t, 2)
		if g.exhausted(g.subject(&key, &other, cryptogram.PSN{}, 1), 1) {
			t.Errorf("%s: another subject is shut out", name)
		}
	}
}

// A limit too large to be multiplied is no limit of a few.
func TestGuessTableLargestLimit(t *testing.T) {
	g := newGuessTable(GuessPolicy{Mismatches: 1 << 31})
	pan, key := testPAN(t, 1), keys.ID{1}
	s := g.subject(&key, &pan, cryptogram.PSN{}, 7)
	g.mismatched(s, 1)
	if g.exhausted(s, 1) || g.inAll != 1<<32-1 {
		t.Errorf("exhausted by one mismatch, or the limit in all is %d", g.inAll)
	}
}

// A flood of other subjects must not wash out the counts of one.
func TestGuessTableFlood(t *testing.T) {
	const limit = 100
	g := newGuessTable(GuessPolicy{Mismatches: limit})
	key := keys.ID{1}
	pan := testPAN(t, 0)
	n := uint64(0)
	// Straight into the set of hash, which nobody outside can aim at.
	flood := func(hash uint64) {
		for range 4 * guessWays {
			n++
			g.count(hash%guessSets+guessSets*n, 1)
		}
	}
	target := g.subject(&key, &pan, cryptogram.PSN{}, 7)
	for range limit {
		g.mismatched(target, 1)
		flood(target.ofCaller)
	}
	if g.spent(target.ofCaller, 2) < limit {
		t.Error("a flood of other subjects gave guesses back to a caller")
	}
	for range (guessCallers - 1) * limit {
		g.mismatched(target, 1)
		flood(target.inAll)
	}
	if g.spent(target.inAll, 2) < guessCallers*limit {
		t.Error("a flood of other subjects gave guesses back in all")
	}
}

func TestGuessTableAllocatesNothing(t *testing.T) {
	g := newGuessTable(GuessPolicy{})
	pan, key := testPAN(t, 1), keys.ID{1}
	if n := testing.AllocsPerRun(100, func() {
		s := g.subject(&key, &pan, cryptogram.PSN{}, 7)
		_ = g.exhausted(s, 1)
		g.mismatched(s, 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGuessCheck(b *testing.B) {
	g := newGuessTable(GuessPolicy{})
	key := keys.ID{1}
	pan := testPAN(b, 7)
	b.ReportAllocs()
	for b.Loop() {
		_ = g.exhausted(g.subject(&key, &pan, cryptogram.PSN{}, 7), 1)
	}
}
