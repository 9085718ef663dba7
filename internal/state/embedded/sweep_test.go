package embedded

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

// keysIn counts the keys of a space that exist.
func keysIn(t *testing.T, e *Engine, space byte) (n int) {
	t.Helper()
	i, err := e.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		t.Fatal(err)
	}
	for i.First(); i.Valid(); i.Next() {
		n++
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	return n
}

// A week of limits with periods of ten minutes: what is kept does not grow.
func TestExpiredCountersGo(t *testing.T) {
	var now atomic.Int64
	now.Store(1_700_000_000)
	dir := filepath.Join(t.TempDir(), "state")
	o := Options{Sweep: -1, Now: func() time.Time { return time.Unix(now.Load(), 0) }}
	e := open(t, dir, o)
	const period, callers = 600, 20
	made, most := 0, 0
	for step := range 7 * 24 * 6 {
		b := &state.Batch{}
		for i := range callers {
			b.Rows = append(b.Rows, state.Row{Key: statetest.Key(i)})
		}
		if err := e.Read(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for i := range b.Rows {
			b.Rows[i].Next = []byte("x")
			b.Rows[i].Adds = [2]state.Add{
				{Key: statetest.Key(1000 + made), N: 1, Expires: now.Load() + 2*period},
				{Key: statetest.Key(1), N: 1, Expires: now.Load() + 2*period}, // always in use
			}
			made++
		}
		if err := e.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		now.Add(period)
		if _, err := e.sweepOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		most = max(most, keysIn(t, e, spaceCounter))
		if step == 500 { // what the sweeper knows is in memory
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			e = open(t, dir, o)
		}
	}
	if limit := callers * 12; most > limit { // two periods, an hour, and the grace
		t.Errorf("%d counters were kept, want at most %d", most, limit)
	}
	b := &state.Batch{Counters: []state.Counter{{Key: statetest.Key(1)}}}
	if err := e.Read(t.Context(), b); err != nil || b.Counters[0].Value != uint64(made) {
		t.Errorf("the counter in use is %d after %d, %v", b.Counters[0].Value, made, err)
	}
	now.Add(24 * hourSeconds)
	for {
		n, err := e.sweepOnce(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	if c, x := keysIn(t, e, spaceCounter), keysIn(t, e, spaceExpiry); c != 0 || x != 0 {
		t.Errorf("%d counters and %d entries are left", c, x)
	}
	if r := keysIn(t, e, spaceRecord); r != callers {
		t.Errorf("%d records are left of %d", r, callers)
	}
	t.Logf("%d made, at most %d kept", made, most)
}

// The sweeper runs by itself, many rounds in one go.
func TestSweeperRuns(t *testing.T) {
	e := open(t, filepath.Join(t.TempDir(), "state"), Options{Sweep: time.Millisecond})
	const counters = 3 * sweepEntries
	for n := 0; n < counters; {
		b := &state.Batch{}
		for range 256 {
			b.Rows = append(b.Rows, state.Row{
				Key: statetest.Key(n), Next: []byte("x"), Adds: [2]state.Add{{Key: statetest.Key(n), N: 1, Expires: int64(n)}},
			})
			n++
		}
		if err := e.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); e.Stats().Swept < counters; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d in a minute", e.Stats().Swept, counters)
		}
	}
}
