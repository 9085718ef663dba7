package statetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// Conformance is what the contract of an engine says. open gives an engine on an
// empty medium of its own, and closes it when the test ends.
func Conformance(t *testing.T, open func(t *testing.T) state.Engine) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, e state.Engine)
	}{
		{"Absent", absent},
		{"Versions", versions},
		{"Conflict", conflict},
		{"OnlyReadRowsAreNotWritten", onlyRead},
		{"AlsoTogetherOrNotAtAll", also},
		{"AlsoOnlyRead", alsoOnlyRead},
		{"AddsOnlyWithTheirRow", adds},
		{"AddsOfOneBatchAddUp", addsAddUp},
		{"ExpiredCounters", expired},
		{"EpochChangesBetweenReadAndCommit", epochChanges},
		{"SetControlRaces", setControlRaces},
		{"ControlDocument", controlDocument},
		{"CommitsRaceWithSetControl", commitsRaceWithSetControl},
		{"ChangedIsAHint", changed},
		{"Sequence", sequence},
		{"AcceptRegression", acceptRegression},
		{"LargestBatch", largest},
		{"OutOfBounds", outOfBounds},
		{"EmptyBatch", emptyBatch},
		{"MemoryOfBatches", memory},
		{"CancelledContexts", cancelled},
		{"AbandonedCommits", abandoned},
		{"Closed", closed},
		{"CallersShareCounters", callersShareCounters},
		{"PairsUnderContention", pairsUnderContention},
		{"Linearizable", linearizable},
		{"LikeTheModel", likeTheModel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// farAway is when counters of tests expire, Unix seconds.
const farAway = 1 << 40

// Key spreads numbers like hashes.
func Key(n int) (k state.Key) {
	binary.BigEndian.PutUint64(k[:], uint64(n+1)*0x9E3779B97F4A7C15)
	binary.BigEndian.PutUint64(k[8:], uint64(n))
	return k
}

func batch(keys ...int) *state.Batch {
	b := &state.Batch{Rows: make([]state.Row, len(keys))}
	for i, k := range keys {
		b.Rows[i].Key = Key(k)
	}
	return b
}

func read(t testing.TB, e state.Engine, b *state.Batch) *state.Batch {
	t.Helper()
	if err := e.Read(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b
}

func commit(t testing.TB, e state.Engine, b *state.Batch) {
	t.Helper()
	if err := e.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// put reads and writes one record.
func put(t testing.TB, e state.Engine, key int, record string) {
	t.Helper()
	b := read(t, e, batch(key))
	b.Rows[0].Next = []byte(record)
	commit(t, e, b)
	if !b.Rows[0].Written {
		t.Fatalf("record %d was not written", key)
	}
}

func want(t testing.TB, e state.Engine, key int, record string) {
	t.Helper()
	r := read(t, e, batch(key)).Rows[0]
	if string(r.Record) != record || (r.Version == 0) != (record == "") {
		t.Errorf("record %d is %q of version %d, want %q", key, r.Record, r.Version, record)
	}
}

func count(t testing.TB, e state.Engine, key int) uint64 {
	t.Helper()
	return read(t, e, &state.Batch{Counters: []state.Counter{{Key: Key(key)}}}).Counters[0].Value
}

func absent(t *testing.T, e state.Engine) {
	b := batch(1, 2)
	b.Rows[1].Also = &state.Row{Key: Key(3), Version: 9, Record: []byte("stale")}
	b.Rows[0].Version, b.Rows[0].Record = 9, []byte("stale")
	b.Counters = []state.Counter{{Key: Key(4), Value: 9}}
	b.Epoch = 9
	read(t, e, b)
	for _, r := range []*state.Row{&b.Rows[0], &b.Rows[1], b.Rows[1].Also} {
		if r.Version != 0 || len(r.Record) != 0 {
			t.Errorf("%q of version %d, want none", r.Record, r.Version)
		}
	}
	if b.Counters[0].Value != 0 || b.Epoch != 0 {
		t.Errorf("counter %d, epoch %d", b.Counters[0].Value, b.Epoch)
	}
}

func versions(t *testing.T, e state.Engine) {
	seen := map[uint64]bool{0: true}
	for i := range 20 {
		put(t, e, 1, fmt.Sprint(i))
		r := read(t, e, batch(1)).Rows[0]
		if seen[r.Version] || string(r.Record) != fmt.Sprint(i) {
			t.Fatalf("after write %d: %q of version %d again", i, r.Record, r.Version)
		}
		seen[r.Version] = true
	}
}

func conflict(t *testing.T, e state.Engine) {
	put(t, e, 1, "one")
	b := read(t, e, batch(1, 2, 3))
	put(t, e, 1, "faster")
	put(t, e, 2, "faster")
	for i := range b.Rows {
		b.Rows[i].Next = []byte("slow")
	}
	commit(t, e, b)
	if b.Rows[0].Written || b.Rows[1].Written || !b.Rows[2].Written {
		t.Errorf("written: %v, %v, %v", b.Rows[0].Written, b.Rows[1].Written, b.Rows[2].Written)
	}
	want(t, e, 1, "faster")
	want(t, e, 2, "faster")
	want(t, e, 3, "slow")
	b = read(t, e, batch(1, 4))
	b.Rows[0].Version += 7 // from the future
	b.Rows[1].Version = 1  // there is none
	b.Rows[0].Next, b.Rows[1].Next = []byte("x"), []byte("x")
	b.Rows[0].Written = true // of an earlier one
	commit(t, e, b)
	if b.Rows[0].Written || b.Rows[1].Written {
		t.Error("a version that never was has been replaced")
	}
	want(t, e, 4, "")
}

func onlyRead(t *testing.T, e state.Engine) {
	b := read(t, e, batch(1, 2))
	b.Rows[0].Next = []byte("x")
	b.Rows[1].Adds[0] = state.Add{Key: Key(9), N: 1, Expires: farAway}
	b.Rows[1].Also = &state.Row{Key: Key(3), Next: []byte("x")} // of a row that is not written
	commit(t, e, b)
	if !b.Rows[0].Written || b.Rows[1].Written || b.Rows[1].Also.Written || count(t, e, 9) != 0 {
		t.Error("a row without Next did something")
	}
	want(t, e, 2, "")
	want(t, e, 3, "")
}

func also(t *testing.T, e state.Engine) {
	for i := range 8 {
		put(t, e, i, "old")
	}
	b := batch(0, 1, 2, 10, 11, 12)
	for i, k := range []int{3, 4, 13, 5, 14, 15} { // with and without a record
		b.Rows[i].Also = &state.Row{Key: Key(k)}
	}
	read(t, e, b)
	if r := b.Rows[0].Also; r.Version == 0 || string(r.Record) != "old" {
		t.Fatal("Also was not read")
	}
	put(t, e, 4, "faster")  // partner of row 1
	put(t, e, 10, "faster") // row 3
	put(t, e, 15, "faster") // partner of row 5, which was not there
	for i := range b.Rows {
		b.Rows[i].Next, b.Rows[i].Also.Next = []byte("new"), []byte("also")
		b.Rows[i].Adds[1] = state.Add{Key: Key(100), N: 1, Expires: farAway}
	}
	commit(t, e, b)
	for i, written := range []bool{true, false, true, false, true, false} {
		if b.Rows[i].Written != written || b.Rows[i].Also.Written != written {
			t.Errorf("row %d: %v, its partner %v, want %v", i, b.Rows[i].Written, b.Rows[i].Also.Written, written)
		}
	}
	for k, record := range map[int]string{
		0: "new", 3: "also", 1: "old", 4: "faster", 2: "new", 13: "also",
		10: "faster", 5: "old", 11: "new", 14: "also", 12: "", 15: "faster",
	} {
		want(t, e, k, record)
	}
	if n := count(t, e, 100); n != 3 {
		t.Errorf("counted %d, want 3", n)
	}
}

func alsoOnlyRead(t *testing.T, e state.Engine) {
	put(t, e, 2, "old")
	b := batch(1)
	b.Rows[0].Also = &state.Row{Key: Key(2)}
	read(t, e, b)
	b.Rows[0].Next = []byte("new")
	commit(t, e, b)
	if !b.Rows[0].Written || b.Rows[0].Also.Written {
		t.Error("a partner without Next stopped its row, or was written")
	}
	want(t, e, 1, "new")
	want(t, e, 2, "old")
}

func adds(t *testing.T, e state.Engine) {
	put(t, e, 2, "x")
	for round := range 3 {
		b := read(t, e, batch(1, 2, 3))
		put(t, e, 2, fmt.Sprint("faster", round))
		for i := range b.Rows {
			b.Rows[i].Adds[0] = state.Add{Key: Key(10 + i), N: uint32(i + 1), Expires: farAway}
			b.Rows[i].Adds[1] = state.Add{Key: Key(20), N: 0, Expires: farAway} // none
		}
		b.Rows[0].Next, b.Rows[1].Next = []byte("x"), []byte("x")
		commit(t, e, b)
	}
	for key, n := range map[int]uint64{10: 3, 11: 0, 12: 0, 20: 0} {
		if got := count(t, e, key); got != n {
			t.Errorf("counter %d is %d, want %d", key, got, n)
		}
	}
	want(t, e, 10, "") // a counter is no record
}

func addsAddUp(t *testing.T, e state.Engine) {
	for range 2 {
		b := read(t, e, batch(1, 2, 3, 4))
		for i := range b.Rows {
			b.Rows[i].Next = []byte("x")
			b.Rows[i].Adds = [2]state.Add{
				{Key: Key(10), N: 1<<32 - 1, Expires: farAway + int64(i)},
				{Key: Key(10), N: uint32(i), Expires: farAway},
			}
		}
		commit(t, e, b)
	}
	if n, sum := count(t, e, 10), uint64(2*(4*(1<<32-1)+6)); n != sum {
		t.Errorf("counted %d, want %d", n, sum)
	}
}

// An expired counter is there or is not, but it is nothing in between, and
// nothing else goes with it.
func expired(t *testing.T, e state.Engine) {
	for range 3 {
		b := read(t, e, batch(1, 2))
		for i := range b.Rows {
			b.Rows[i].Next = []byte("x")
		}
		b.Rows[0].Adds = [2]state.Add{{Key: Key(10), N: 5, Expires: 1}, {Key: Key(11), N: 5, Expires: farAway}}
		b.Rows[1].Adds[0] = state.Add{Key: Key(12), N: 5, Expires: -1}
		commit(t, e, b)
	}
	if n := count(t, e, 10); n%5 != 0 || n > 15 {
		t.Errorf("an expired counter is %d", n)
	}
	if n := count(t, e, 12); n%5 != 0 || n > 15 {
		t.Errorf("an expired counter is %d", n)
	}
	if n := count(t, e, 11); n != 15 {
		t.Errorf("counted %d, want 15", n)
	}
}

func sequence(t *testing.T, e state.Engine) {
	if n, err := e.Sequence(t.Context()); err != nil || n != 0 {
		t.Fatalf("at the beginning %d, %v", n, err)
	}
	for i := range uint64(10) {
		b := read(t, e, batch(1, 2))
		if i%2 == 0 {
			b.Rows[0].Next = []byte("x")
		}
		if i%3 == 0 {
			b.Rows[1].Next, b.Rows[1].Version = []byte("x"), 1000 // a conflict
		}
		commit(t, e, b)
		n, err := e.Sequence(t.Context())
		if err != nil || n != i+1 || b.Sequence != i+1 {
			t.Fatalf("commit %d: %d, %d, %v", i+1, b.Sequence, n, err)
		}
	}
}

func acceptRegression(t *testing.T, e state.Engine) {
	put(t, e, 1, "x")
	for _, c := range []struct{ accept, want uint64 }{{0, 1}, {1, 1}, {1000, 1000}, {5, 1000}, {1000, 1000}} {
		if err := e.AcceptRegression(t.Context(), c.accept); err != nil {
			t.Fatal(err)
		}
		if n, err := e.Sequence(t.Context()); err != nil || n != c.want {
			t.Fatalf("after accepting %d: %d, %v, want %d", c.accept, n, err, c.want)
		}
	}
	b := read(t, e, batch(1))
	b.Rows[0].Next = []byte("y")
	commit(t, e, b)
	if b.Sequence != 1001 || !b.Rows[0].Written {
		t.Errorf("the next commit is %d", b.Sequence)
	}
}

func largest(t *testing.T, e state.Engine) {
	b := &state.Batch{Rows: make([]state.Row, state.MaxBatchRows)}
	for i := range b.Rows {
		b.Rows[i].Key = Key(i)
		b.Rows[i].Also = &state.Row{Key: Key(10_000 + i)}
	}
	for round := range 2 {
		read(t, e, b)
		for i := range b.Rows {
			b.Rows[i].Next = bytes.Repeat([]byte{byte(i + round)}, state.MaxRecordBytes)
			b.Rows[i].Also.Next = bytes.Repeat([]byte{byte(i + round + 1)}, state.MaxRecordBytes)
			b.Rows[i].Adds = [2]state.Add{{Key: Key(20_000 + i), N: 1, Expires: farAway}, {Key: Key(30_000 + i), N: 2, Expires: farAway}}
		}
		commit(t, e, b)
	}
	counters := &state.Batch{Rows: b.Rows}
	for i := range b.Rows {
		counters.Counters = append(counters.Counters, state.Counter{Key: Key(20_000 + i)}, state.Counter{Key: Key(30_000 + i)})
	}
	next := make([][]byte, len(b.Rows))
	for i := range b.Rows {
		next[i] = b.Rows[i].Next
	}
	read(t, e, counters)
	for i := range b.Rows {
		r := &b.Rows[i]
		if !bytes.Equal(r.Record, next[i]) || !bytes.Equal(r.Also.Record, r.Also.Next) {
			t.Fatalf("row %d is not what was written", i)
		}
		if counters.Counters[2*i].Value != 2 || counters.Counters[2*i+1].Value != 4 {
			t.Fatalf("counters of row %d: %d, %d", i, counters.Counters[2*i].Value, counters.Counters[2*i+1].Value)
		}
	}
}

func outOfBounds(t *testing.T, e state.Engine) {
	put(t, e, 1, "x")
	for name, spoil := range map[string]func(*state.Batch){
		"rows":           func(b *state.Batch) { b.Rows = append(b.Rows, make([]state.Row, state.MaxBatchRows)...) },
		"a long record":  func(b *state.Batch) { b.Rows[1].Next = make([]byte, state.MaxRecordBytes+1) },
		"no record":      func(b *state.Batch) { b.Rows[1].Next = []byte{} },
		"a long partner": func(b *state.Batch) { b.Rows[1].Also.Next = make([]byte, state.MaxRecordBytes+1) },
	} {
		b := batch(1, 2)
		b.Rows[1].Also = &state.Row{Key: Key(3)}
		read(t, e, b)
		b.Rows[0].Next, b.Rows[1].Next, b.Rows[1].Also.Next = []byte("y"), []byte("y"), []byte("y")
		spoil(b)
		if err := e.Commit(t.Context(), b); err == nil {
			t.Errorf("%s: taken", name)
		}
		if b.Rows[0].Written || b.Rows[1].Written {
			t.Errorf("%s: written", name)
		}
		want(t, e, 1, "x")
		want(t, e, 2, "")
		want(t, e, 3, "")
	}
	if n, err := e.Sequence(t.Context()); err != nil || n != 1 {
		t.Errorf("sequence %d, %v", n, err)
	}
}

func emptyBatch(t *testing.T, e state.Engine) {
	b := read(t, e, &state.Batch{})
	commit(t, e, b)
	if b.Sequence != 1 {
		t.Errorf("sequence %d", b.Sequence)
	}
	b = read(t, e, &state.Batch{Counters: []state.Counter{{Key: Key(1)}, {Key: Key(1)}}})
	if b.Counters[0].Value != 0 {
		t.Error(b.Counters[0].Value)
	}
	put(t, e, 1, "x")
	if b := read(t, e, batch(1, 1)); string(b.Rows[0].Record) != "x" || string(b.Rows[1].Record) != "x" {
		t.Error("a record that is read twice is not there twice")
	}
}

// What Read gave stays until the batch is read again, whatever others do; what
// Commit was given is the caller's again when it returns.
func memory(t *testing.T, e state.Engine) {
	next := []byte("first")
	b := read(t, e, batch(1))
	b.Rows[0].Next = next
	commit(t, e, b)
	copy(next, "XXXXX")
	want(t, e, 1, "first")
	held := read(t, e, batch(1))
	for i := range 50 {
		put(t, e, 1, fmt.Sprintf("%05d", i))
		put(t, e, i+2, "other")
	}
	if string(held.Rows[0].Record) != "first" {
		t.Errorf("a record changed to %q while it was held", held.Rows[0].Record)
	}
	held.Rows[0].Record[0] = 'X' // and is the caller's to spoil
	want(t, e, 1, "00049")
}

func cancelled(t *testing.T, e state.Engine) {
	put(t, e, 1, "x")
	b := read(t, e, batch(1))
	b.Rows[0].Next = []byte("y")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, control := e.Control(ctx)
	_, set := e.SetControl(ctx, state.Control{})
	_, sequence := e.Sequence(ctx)
	for name, err := range map[string]error{
		"Read": e.Read(ctx, batch(1)), "Commit": e.Commit(ctx, b), "Control": control, "SetControl": set,
		"Sequence": sequence, "AcceptRegression": e.AcceptRegression(ctx, 7),
	} {
		if !errors.Is(err, state.ErrUnavailable) {
			t.Errorf("%s with a cancelled context: %v", name, err)
		}
	}
	if b.Rows[0].Written {
		t.Error("written")
	}
	put(t, e, 1, "z")
	want(t, e, 1, "z")
}

func closed(t *testing.T, e state.Engine) {
	put(t, e, 1, "x")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	_, control := e.Control(t.Context())
	_, set := e.SetControl(t.Context(), state.Control{})
	_, sequence := e.Sequence(t.Context())
	for name, err := range map[string]error{
		"Read": e.Read(t.Context(), batch(1)), "Commit": e.Commit(t.Context(), batch(1)), "Control": control,
		"SetControl": set, "Sequence": sequence, "AcceptRegression": e.AcceptRegression(t.Context(), 7),
	} {
		if !errors.Is(err, state.ErrUnavailable) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if err := e.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
}
