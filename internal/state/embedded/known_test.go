package embedded

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// What the engine knows without looking must never be old: as many writes are
// acknowledged as there are versions, while readers, who also teach, are late,
// and more records are used than a generation holds.
func TestKnownVersionsAreNotOld(t *testing.T) {
	e := open(t, filepath.Join(t.TempDir(), "state"), Options{})
	const callers, rounds, hot, cold = 8, 300, 6, 3 * knownRecords
	written := make([][hot]uint64, callers)
	var group sync.WaitGroup
	for i := range callers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for range rounds {
				b := &state.Batch{Rows: make([]state.Row, hot+16)}
				for n := range b.Rows {
					b.Rows[n].Key = benchKey(n)
					if n >= hot {
						b.Rows[n].Key = benchKey(hot + random.IntN(cold)) // drives others out
					}
				}
				if err := e.Read(t.Context(), b); err != nil {
					t.Error(err)
					return
				}
				which := random.IntN(hot)
				b.Rows[which].Next = benchNext(1)
				if err := e.Commit(t.Context(), b); err != nil {
					t.Error(err)
					return
				}
				if b.Rows[which].Written {
					written[i][which]++
				}
			}
		})
	}
	group.Wait()
	b := &state.Batch{Rows: make([]state.Row, hot)}
	for n := range b.Rows {
		b.Rows[n].Key = benchKey(n)
	}
	if err := e.Read(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for n := range b.Rows {
		var sum uint64
		for i := range written {
			sum += written[i][n]
		}
		if sum == 0 || b.Rows[n].Version != sum {
			t.Errorf("record %d has version %d after %d acknowledged writes", n, b.Rows[n].Version, sum)
		}
	}
}

// A version that the caller made up is compared all the same.
func TestKnownVersionsAreCompared(t *testing.T) {
	e := open(t, filepath.Join(t.TempDir(), "state"), Options{})
	for _, version := range []uint64{0, 1, 2} {
		b := &state.Batch{Rows: []state.Row{{Key: benchKey(1)}}}
		if err := e.Read(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if b.Rows[0].Version != version {
			t.Fatalf("version %d, want %d", b.Rows[0].Version, version)
		}
		for _, wrong := range []uint64{version + 1, version + 2, version - 1} {
			b.Rows[0].Version, b.Rows[0].Next = wrong, benchNext(1)
			if err := e.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			if b.Rows[0].Written {
				t.Fatalf("written over version %d with version %d", version, wrong)
			}
		}
		b.Rows[0].Version = version
		if err := e.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if !b.Rows[0].Written {
			t.Fatalf("not written over version %d", version)
		}
	}
}
