package postgres

import (
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/state"
)

// modes are the two ways in which the same batch can be written: in one
// statement, and in a transaction as CockroachDB needs it; and both levels.
func modes(t *testing.T, f func(t *testing.T, e *Engine)) {
	for _, isolation := range []Isolation{Serializable, ReadCommitted} {
		for _, together := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/together=%v", isolation, together), func(t *testing.T) {
				c := cluster(t)
				e := open(t, Options{Connection: c.URL(migrated(t, c)), Isolation: isolation})
				e.together = together
				f(t, e)
			})
		}
	}
}

func TestMixedBatch(t *testing.T) {
	modes(t, func(t *testing.T, e *Engine) {
		put(t, e, key(1), "one")
		put(t, e, key(2), "two")
		b := batch(key(1), key(2), key(3), key(4), key(5))
		b.Counters = []state.Counter{{Key: key(101)}, {Key: key(102)}}
		read(t, e, b)
		if b.Rows[0].Version != 1 || string(b.Rows[1].Record) != "two" || b.Rows[2].Version != 0 || b.Rows[2].Record != nil {
			t.Fatalf("read %+v", b.Rows)
		}
		put(t, e, key(2), "faster")
		put(t, e, key(4), "faster")
		for i := range b.Rows[:4] {
			b.Rows[i].Next = fmt.Appendf(nil, "new%d", i)
			b.Rows[i].Adds = [2]state.Add{{Key: key(101), N: 10, Expires: farAway}, {Key: key(102), N: uint32(i + 1), Expires: farAway}}
		}
		commit(t, e, b)
		var written []bool
		for _, r := range b.Rows {
			written = append(written, r.Written)
		}
		if diff := cmp.Diff([]bool{true, false, true, false, false}, written); diff != "" {
			t.Error(diff)
		}
		read(t, e, b)
		if b.Counters[0].Value != 20 || b.Counters[1].Value != 1+3 {
			t.Errorf("counted %d and %d", b.Counters[0].Value, b.Counters[1].Value)
		}
		for i, want := range []string{"new0", "faster", "new2", "faster", ""} {
			if string(b.Rows[i].Record) != want {
				t.Errorf("row %d is %q, not %q", i, b.Rows[i].Record, want)
			}
		}
		if n, err := e.Sequence(t.Context()); err != nil || n != 5 || b.Sequence != 5 {
			t.Errorf("sequence %d, %d, %v", n, b.Sequence, err)
		}
	})
}

func TestAlsoIsWrittenTogetherOrNotAtAll(t *testing.T) {
	modes(t, func(t *testing.T, e *Engine) {
		for i := range 8 {
			put(t, e, key(i), "old")
		}
		b := batch(key(0), key(1), key(2), key(10), key(11))
		for i, k := range []int{3, 4, 12, 5, 13} { // rows and partners with and without a record
			b.Rows[i].Also = &state.Row{Key: key(k)}
		}
		read(t, e, b)
		if b.Rows[1].Also.Version != 1 || string(b.Rows[1].Also.Record) != "old" {
			t.Fatal("Also was not read")
		}
		put(t, e, key(4), "faster") // partner of row 1
		put(t, e, key(10), "faster")
		for i := range b.Rows {
			b.Rows[i].Next, b.Rows[i].Also.Next = []byte("new"), []byte("also")
			b.Rows[i].Adds[1] = state.Add{Key: key(100), N: 1, Expires: farAway}
		}
		commit(t, e, b)
		for i, want := range []bool{true, false, true, false, true} {
			if b.Rows[i].Written != want || b.Rows[i].Also.Written != want {
				t.Errorf("row %d: written %v, its partner %v", i, b.Rows[i].Written, b.Rows[i].Also.Written)
			}
		}
		for k, want := range map[int]string{0: "new", 1: "old", 2: "new", 3: "also", 4: "faster", 5: "old", 10: "faster", 11: "new", 12: "also", 13: "also"} {
			if got, _ := get(t, e, key(k)); got != want {
				t.Errorf("record %d is %q, not %q", k, got, want)
			}
		}
		b = &state.Batch{Counters: []state.Counter{{Key: key(100)}}}
		if read(t, e, b); b.Counters[0].Value != 3 {
			t.Errorf("counted %d", b.Counters[0].Value)
		}
	})
}

func TestControlStopsCommits(t *testing.T) {
	modes(t, func(t *testing.T, e *Engine) {
		if c, err := e.Control(t.Context()); err != nil || c.Epoch != 0 || len(c.Document) != 0 {
			t.Fatalf("%+v, %v", c, err)
		}
		b := batch(key(1))
		read(t, e, b)
		epoch, err := e.SetControl(t.Context(), state.Control{Epoch: 0, Document: []byte("stop")})
		if err != nil || epoch != 1 {
			t.Fatal(epoch, err)
		}
		if _, err := e.SetControl(t.Context(), state.Control{Epoch: 0}); !errors.Is(err, state.ErrControlChanged) {
			t.Error(err)
		}
		b.Rows[0].Next = []byte("x")
		if err := e.Commit(t.Context(), b); !errors.Is(err, state.ErrControlChanged) || b.Rows[0].Written {
			t.Fatal(err)
		}
		if _, version := get(t, e, key(1)); version != 0 {
			t.Error("written")
		}
		put(t, e, key(1), "x")
		if c, err := e.Control(t.Context()); err != nil || c.Epoch != 1 || string(c.Document) != "stop" {
			t.Errorf("%+v, %v", c, err)
		}
	})
}

func TestChangedOnTheOtherInstance(t *testing.T) {
	a := fresh(t)
	b := open(t, Options{Connection: a.o.Connection})
	eventually(t, "both listen", func() bool {
		return cluster(t).Value(a.base.Database, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = '"+a.base.Database+"'") == "2"
	})
	select {
	case <-b.Changed():
	case <-time.After(time.Minute):
		t.Fatal("no first hint")
	}
	if _, err := a.SetControl(t.Context(), state.Control{Document: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.Changed():
	case <-time.After(time.Minute):
		t.Fatal("no hint")
	}
}

// Two engines, eight callers each, count in the same few records; both levels.
func TestTwoInstances(t *testing.T) {
	for _, isolation := range []Isolation{Serializable, ReadCommitted} {
		t.Run(string(isolation), func(t *testing.T) {
			c := cluster(t)
			o := Options{Connection: c.URL(migrated(t, c)), Isolation: isolation}
			engines := []*Engine{open(t, o), open(t, o)}
			const callers, rounds, keys = 4, 60, 40
			var mu sync.Mutex
			acknowledged := make(map[state.Key]uint64)
			var group sync.WaitGroup
			for g := range 2 * callers {
				group.Go(func() {
					e := engines[g%2]
					for round := range rounds {
						b := &state.Batch{}
						for i := range keys {
							if bits.OnesCount(uint(i*7+g+round))%2 == 0 {
								b.Rows = append(b.Rows, state.Row{Key: key(i)})
							}
						}
						if err := e.Read(t.Context(), b); err != nil {
							t.Error(err)
							return
						}
						for i := range b.Rows {
							b.Rows[i].Next = fmt.Appendf(nil, "%d.%d", g, round)
							b.Rows[i].Adds[0] = state.Add{Key: key(1000 + i%3), N: 1, Expires: farAway}
						}
						if err := e.Commit(t.Context(), b); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						for _, r := range b.Rows {
							if r.Written {
								acknowledged[r.Key]++
							}
						}
						mu.Unlock()
					}
				})
			}
			group.Wait()
			var total uint64
			for k, n := range acknowledged {
				total += n
				if _, version := get(t, engines[0], k); version != n {
					t.Errorf("version %d after %d acknowledged writes", version, n)
				}
			}
			counted := &state.Batch{Counters: []state.Counter{{Key: key(1000)}, {Key: key(1001)}, {Key: key(1002)}}}
			read(t, engines[0], counted)
			if sum := counted.Counters[0].Value + counted.Counters[1].Value + counted.Counters[2].Value; sum != total {
				t.Errorf("counted %d of %d", sum, total)
			}
			stats := [2]Stats{engines[0].Stats(), engines[1].Stats()}
			t.Logf("%d writes; %+v", total, stats)
			if isolation == Serializable && stats[0].Retries+stats[1].Retries == 0 {
				t.Error("no transaction was taken back (40001)")
			}
		})
	}
}
