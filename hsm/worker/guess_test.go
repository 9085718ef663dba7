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
	s := g.subject(&key, &pan, cryptogram.PSN{})
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
	g.mismatched(g.subject(&k1, &p1, cryptogram.PSN{}), 1)
	for name, s := range map[string]uint64{
		"other key":             g.subject(&k2, &p1, cryptogram.PSN{}),
		"other PAN":             g.subject(&k1, &p2, cryptogram.PSN{}),
		"other sequence number": g.subject(&k1, &p1, psn),
	} {
		if g.exhausted(s, 2) {
			t.Errorf("%s: exhausted by another subject", name)
		}
	}
	if !g.exhausted(g.subject(&k1, &p1, cryptogram.PSN{}), 2) {
		t.Error("the subject itself is not exhausted")
	}
}

// A flood of other subjects must not wash out the count of one.
func TestGuessTableFlood(t *testing.T) {
	g := newGuessTable(GuessPolicy{Mismatches: 100})
	key := keys.ID{1}
	pan := testPAN(t, 0)
	target := g.subject(&key, &pan, cryptogram.PSN{})
	for i := range 100 {
		g.mismatched(target, 1)
		for j := range 4 * guessWays {
			// Straight into the target's set, which nobody outside can aim at.
			other := target%guessSets + guessSets*uint64(1+i*4*guessWays+j)
			g.mismatched(other, 1)
		}
	}
	if !g.exhausted(target, 2) {
		t.Error("a flood of other subjects gave guesses back")
	}
}

func BenchmarkGuessCheck(b *testing.B) {
	g := newGuessTable(GuessPolicy{})
	key := keys.ID{1}
	pan := testPAN(b, 7)
	b.ReportAllocs()
	for b.Loop() {
		_ = g.exhausted(g.subject(&key, &pan, cryptogram.PSN{}), 1)
	}
}
