package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
	"github.com/tapseal/tapseal/internal/state/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Operations that wait share commits, those for one token as well.
func TestBatches(t *testing.T) {
	t.Parallel()
	e := newEngine()
	s := open(t, e, still())
	ops := make([]*store.Op, 0, 1000)
	for i := range 500 {
		ops = append(ops, tap(1000, uint16(i), 0), tap(i, 1000, 0))
	}
	ask(t, s, ops...)
	for _, op := range ops {
		if op.Outcome.Result != state.Accept || op.Sequence == 0 {
			t.Fatalf("%+v, %v, commit %d", op.Outcome, op.Err, op.Sequence)
		}
	}
	if e.commits != 4 {
		t.Errorf("%d commits for 1000 operations that waited", e.commits)
	}
	if st := s.Stats(); st.Ops != 1000 || st.Batches != 4 || st.Conflicts != 0 || !st.Reachable || st.LastError != "" {
		t.Errorf("%+v", st)
	}
	// What changes nothing commits nothing.
	again := tap(499, 1000, 0)
	ask(t, s, again)
	wants(t, again, state.Accept, state.Repeated)
	if again.Sequence != 0 || e.commits != 4 {
		t.Errorf("commit %d", again.Sequence)
	}
}

// Eight of one cryptogram in one batch, and one repeated.
func TestDuplicatesInABatch(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, e state.Engine) {
		s := open(t, e, store.Options{})
		ops := []*store.Op{tap(1, 5, 0), tap(1, 5, 1), tap(1, 5, 0), tap(1, 5, 2, caller(2)), tap(1, 6, 0), tap(1, 5, 1)}
		ask(t, s, ops...)
		wants(t, ops[0], state.Accept, state.Fresh)
		wants(t, ops[1], state.Reject, state.Replayed)
		wants(t, ops[2], state.Accept, state.Repeated)
		wants(t, ops[3], state.Reject, state.Replayed)
		wants(t, ops[4], state.Accept, state.Fresh)
		wants(t, ops[5], state.Reject, state.Replayed)
	})
}

// Random batches are what one operation after the other is: nothing of a token
// is another one's, of this batch or the last one.
func TestBatchIsASequence(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, e state.Engine) {
		s := open(t, e, still())
		random := rand.New(rand.NewPCG(1, 2))
		records := map[store.Subject][]byte{}
		restricted := state.Change{Restrict: &state.Restriction{
			Currencies: []uint16{0, 1}, Terminals: []uint8{1, 2, 3}, Merchants: []state.NameHash{{1}},
		}}
		if _, _, err := s.Change(context.Background(), [2]store.Subject{subject(1, 3)}, restricted); err != nil {
			t.Fatal(err)
		}
		var r state.Record
		_ = restricted.Apply(&r, 0)
		records[subject(1, 3)] = r.Append(nil)
		for range 200 {
			ops := make([]*store.Op, random.IntN(60)+1)
			for i := range ops {
				ops[i] = tap(random.IntN(8), uint16(random.IntN(100)), random.Uint32N(3), policy(func(p *state.Policy) {
					p.Limits.PeriodSec, p.Remember = 0, uint8(random.IntN(5))
				}))
				ops[i].Event.Matched = random.IntN(4) != 0
				ops[i].Event.Purpose = state.Purpose(random.IntN(3) + 1)
				ops[i].Event.Type = state.CryptogramType(random.IntN(3))
				ops[i].Event.Response[0] = byte(1 + random.IntN(2))
				ops[i].Event.Place = state.Place{Terminal: 2, Merchant: state.NameHash{byte(random.IntN(2))}}
			}
			ask(t, s, ops...)
			for i, op := range ops {
				var r state.Record
				if err := r.Decode(records[op.Subjects[0]]); err != nil {
					t.Fatal(err)
				}
				ev := op.Event
				ev.Now = noon
				want, changed := state.Next(&r, &ev)
				if changed {
					records[op.Subjects[0]] = r.Append(nil)
				}
				if op.Outcome != want || op.Err != nil {
					t.Fatalf("operation %d: %+v, %v; by itself %+v", i, op.Outcome, op.Err, want)
				}
			}
		}
		for subject, want := range records {
			got, err := s.Token(context.Background(), [2]store.Subject{subject})
			if err != nil || !slices.Equal(got.Append(nil), want) {
				t.Fatalf("%+v, %v", got, err)
			}
		}
	})
}

// Another store is faster, between read and commit.
func TestConflict(t *testing.T) {
	t.Parallel()
	model := statetest.NewModel()
	e := wrap(model)
	s, other := open(t, e, still()), open(t, model, still())
	faster := tap(1, 5, 1)
	var n atomic.Int32
	e.set(&e.commit, func(*state.Batch) error {
		if n.Add(1) == 1 {
			ask(t, other, faster)
		}
		return nil
	})
	ops := []*store.Op{tap(1, 5, 0), tap(1, 5, 1), tap(2, 5, 0), tap(1, 6, 0)}
	ask(t, s, ops...)
	wants(t, faster, state.Accept, state.Fresh)
	wants(t, ops[0], state.Reject, state.Replayed)
	wants(t, ops[1], state.Accept, state.Repeated)
	wants(t, ops[2], state.Accept, state.Fresh)
	wants(t, ops[3], state.Accept, state.Fresh)
	if st := s.Stats(); st.Conflicts != 3 {
		t.Errorf("%+v", st)
	}
}

// Always faster: no outcome, and not for ever.
func TestBusy(t *testing.T) {
	t.Parallel()
	model := statetest.NewModel()
	e := wrap(model)
	s, other := open(t, e, still()), open(t, model, still())
	var atc atomic.Int32
	e.set(&e.commit, func(*state.Batch) error {
		ask(t, other, tap(1, uint16(100+atc.Add(1)), 0))
		return nil
	})
	op := tap(1, 5, 0)
	ask(t, s, op, tap(1, 1000, 1))
	if !errors.Is(op.Err, store.ErrBusy) || op.Outcome != (state.Outcome{}) || op.Sequence != 0 {
		t.Errorf("%+v, %v", op.Outcome, op.Err)
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	e := newEngine()
	var now atomic.Int64
	now.Store(noon)
	s := open(t, e, store.Options{Now: func() time.Time { return time.Unix(now.Load(), 0) }})
	by := func(sec int64) option { return func(op *store.Op) { op.Deadline = time.Unix(noon+sec, 0) } }
	late, inTime, none := tap(1, 1, 0, by(0)), tap(1, 2, 0, by(1)), tap(1, 3, 0)
	ask(t, s, late, inTime, none)
	if !errors.Is(late.Err, store.ErrDeadline) || late.Outcome != (state.Outcome{}) {
		t.Errorf("%+v, %v", late.Outcome, late.Err)
	}
	wants(t, inTime, state.Accept, state.Fresh)
	wants(t, none, state.Accept, state.Fresh)
	again := tap(1, 1, 1)
	ask(t, s, again)
	wants(t, again, state.Accept, state.Late) // the late one consumed nothing
	commits := e.commits
	ask(t, s, tap(1, 9, 0, by(-5)))
	if e.commits != commits {
		t.Error("nobody waits for it, and it was committed")
	}
	// Passed while others were faster.
	e.set(&e.commit, func(b *state.Batch) error {
		now.Store(noon + 10)
		b.Rows[0].Version++ // as good as a conflict
		return nil
	})
	passed := tap(1, 10, 0, by(5))
	ask(t, s, passed)
	if !errors.Is(passed.Err, store.ErrDeadline) {
		t.Errorf("%+v, %v", passed.Outcome, passed.Err)
	}
}

// What is stopped between read and commit does not pass, on any store.
func TestControlChanges(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, below state.Engine) {
		e := wrap(below)
		s, other := open(t, e, still()), open(t, below, still())
		stop := state.StandingStop{Kind: state.StopsBIN, First: 4761730000000000000, Last: 4761739999999999999}
		var n atomic.Int32
		e.set(&e.commit, func(*state.Batch) error {
			if n.Add(1) != 1 {
				return nil
			}
			return other.ChangeRules(context.Background(), func(r *state.Rules) error { return r.Add(stop) })
		})
		op, two := tap(1, 1, 0), tap(1, 2, 0, mismatched, caller(2))
		ask(t, s, op, two, tap(1, 3, 0, mismatched, caller(3)), tap(1, 4, 0, mismatched, caller(4)))
		wants(t, op, state.Reject, state.Fresh)
		if !slices.Equal(op.Outcome.Reasons(), []state.Reason{state.BINStopped}) {
			t.Errorf("%v", op.Outcome.Reasons())
		}
		wants(t, two, state.Reject, state.NotChecked)
		// Lifted by one, in force with the other at once.
		if err := s.ChangeRules(context.Background(), func(r *state.Rules) error { return r.Lift(stop) }); err != nil {
			t.Fatal(err)
		}
		op = tap(1, 1, 0)
		ask(t, other, op)
		wants(t, op, state.Accept, state.Fresh)
		if err := s.ChangeRules(context.Background(), func(r *state.Rules) error { return r.Lift(stop) }); !errors.Is(err, state.ErrNoSuchStop) {
			t.Error(err)
		}
	})
}

// A document that this store does not understand: nothing is decided any more.
func TestControlDamaged(t *testing.T) {
	t.Parallel()
	e := newEngine()
	s := open(t, e, still())
	c, err := e.Control(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	c.Document = []byte(`{"format":2}`)
	if _, err := e.SetControl(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	op := tap(1, 1, 0)
	ask(t, s, op)
	if op.Err == nil || op.Outcome != (state.Outcome{}) {
		t.Errorf("%+v", op.Outcome)
	}
	if _, _, err := s.Change(context.Background(), op.Subjects, state.Change{Status: state.Active}); err == nil {
		t.Error("a change by a document that is not understood")
	}
	if _, err := store.New(context.Background(), e, still()); err == nil {
		t.Error("a store opened")
	}
}

// Failures of several callers for one token in one batch: all counted, for each
// of them, exactly.
func TestCountersExact(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, e state.Engine) {
		s, other := open(t, e, still()), open(t, e, still())
		unlimited := policy(func(p *state.Policy) { p.Limits.TokenFailures = 0 })
		var ops, others []*store.Op
		for i := range 40 {
			for c := byte(1); c <= 3; c++ {
				ops = append(ops, tap(i%5, 1000, uint32(i), caller(c), mismatched, unlimited))
				others = append(others, tap(i%5, 2000, uint32(i), caller(c), mismatched, unlimited))
			}
		}
		// One BIN of nine digits, in the words of one policy, and of six in another's.
		odd := func(op *store.Op) { op.BINKey = state.Key{'B', 9} }
		ops = append(ops, tap(1, 3000, 0, mismatched, unlimited, odd), tap(1, 3001, 0, mismatched, unlimited))
		d := newDesk()
		for _, op := range append(slices.Clone(ops), others...) {
			op.Sink = d
		}
		var wg sync.WaitGroup
		for i, list := range [][]*store.Op{ops, others} {
			wg.Go(func() { []*store.Store{s, other}[i].Submit(list...) })
		}
		wg.Wait()
		d.take(t, len(ops)+len(others))
		want := map[byte]uint64{}
		for _, op := range append(slices.Clone(ops), others...) {
			if op.Err != nil && !errors.Is(op.Err, store.ErrBusy) {
				t.Fatalf("%+v, %v", op.Outcome, op.Err)
			}
			if op.Outcome.Counted {
				want[op.CallerKey[1]]++
			}
		}
		for c := byte(1); c <= 3; c++ {
			bin, all := counter(t, e, state.Key{'B', c}, noon/60), counter(t, e, state.Key{'C', c}, noon/60)
			if c == 1 {
				bin += counter(t, e, state.Key{'B', 9}, noon/60)
			}
			if all != want[c] || bin != want[c] || want[c] < 80 {
				t.Errorf("caller %d: %d, with the BIN %d, want %d", c, all, bin, want[c])
			}
		}
		if n := counter(t, e, state.Key{'B', 9}, noon/60); n != 1 {
			t.Errorf("the other BIN counter: %d", n)
		}
	})
}

// A failure that is sent again is not counted again, and a limit holds within a
// batch.
func TestLimitsInABatch(t *testing.T) {
	t.Parallel()
	e := newEngine()
	s := open(t, e, still())
	limit := policy(func(p *state.Policy) { p.Limits.CallerFailures = 3 })
	var ops []*store.Op
	for i := range 6 {
		ops = append(ops, tap(i, 1, 0, mismatched, limit))
	}
	again := tap(0, 1, 0, mismatched, limit)
	right := tap(9, 1, 0, limit)
	another := tap(9, 2, 0, limit, caller(2))
	ask(t, s, append(ops, again, right, another)...)
	for i, op := range ops {
		if wantResult := map[bool]state.Result{true: state.Reject, false: state.Defer}[i < 3]; op.Outcome.Result != wantResult {
			t.Errorf("%d: %+v", i, op.Outcome)
		}
	}
	if right.Outcome != again.Outcome || right.Outcome.Result != state.Defer || right.Outcome.RetryAfterSec != 60 {
		t.Errorf("right %+v, wrong %+v", right.Outcome, again.Outcome)
	}
	wants(t, another, state.Accept, state.Fresh)
	if n := counter(t, e, state.Key{'C', 1}, noon/60); n != 3 {
		t.Errorf("%d failures", n)
	}
}

// Every error of an engine, at every step: no outcome, the error, each operation
// back once, those that had to wait for the next batch as well. And it goes on.
func TestEngineErrors(t *testing.T) {
	t.Parallel()
	other := errors.New("something else")
	for _, step := range []string{"read", "commit", "after", "control"} {
		for _, kind := range []error{state.ErrUnavailable, state.ErrRegressed, state.ErrBroken, state.ErrControlChanged, other} {
			if step == "after" && errors.Is(kind, state.ErrControlChanged) {
				continue // that an engine has written nothing, when it says so, is its contract
			}
			t.Run(fmt.Sprint(step, kind), func(t *testing.T) {
				t.Parallel()
				testEngineError(t, step, fmt.Errorf("saying why: %w", kind))
			})
		}
	}
}

func testEngineError(t *testing.T, step string, kind error) {
	e := newEngine()
	s := open(t, e, still())
	fail := func(*state.Batch) error { return kind }
	if step == "control" {
		c, err := e.Control(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if c.Epoch, err = e.SetControl(context.Background(), c); err != nil {
			t.Fatal(err)
		}
		e.mu.Lock()
		e.control = func() error { return kind }
		e.mu.Unlock()
	} else {
		e.set(map[string]*func(*state.Batch) error{"read": &e.read, "commit": &e.commit, "after": &e.after}[step], fail)
	}
	ops := []*store.Op{
		tap(1, 1, 0), tap(1, 2, 0), tap(2, 1, 0),
		tap(3, 1, 0, mismatched), tap(3, 1, 0, mismatched, caller(2)), tap(3, 1, 0, mismatched, caller(3)), // one waits
		tap(4, 1, 0), tap(4, 1, 0, rotating), // two names
	}
	ask(t, s, ops...)
	for _, op := range ops {
		if op.Outcome != (state.Outcome{}) || op.Sequence != 0 || (!errors.Is(op.Err, kind) && !errors.Is(op.Err, store.ErrBusy)) {
			t.Errorf("%+v, %v", op.Outcome, op.Err)
		}
	}
	select {
	case err := <-s.Failed():
		if !errors.Is(kind, state.ErrBroken) || !errors.Is(err, kind) {
			t.Errorf("the process would end: %v", err)
		}
	default:
		if errors.Is(kind, state.ErrBroken) {
			t.Error("the medium is broken, and the process goes on")
		}
	}
	if st := s.Stats(); !errors.Is(kind, state.ErrControlChanged) && (st.Reachable || st.LastError == "") {
		t.Errorf("%+v", st)
	}
	for _, h := range []*func(*state.Batch) error{&e.read, &e.commit, &e.after} {
		e.set(h, nil)
	}
	e.mu.Lock()
	e.control = nil
	e.mu.Unlock()
	op := tap(1, 1, 0)
	ask(t, s, op)
	if op.Outcome.Result != state.Accept || (step == "after") != (op.Outcome.Freshness == state.Repeated) {
		t.Errorf("afterwards: %+v, %v", op.Outcome, op.Err)
	}
	if st := s.Stats(); !st.Reachable || st.LastError != "" {
		t.Errorf("%+v", st)
	}
}

// An operation that says too little, and a record that nobody can read, are
// without an outcome; the others of the batch are not.
func TestBadOperations(t *testing.T) {
	t.Parallel()
	e := newEngine()
	s := open(t, e, still())
	put := func(k state.Key, record string) {
		b := &state.Batch{Rows: []state.Row{{Key: k}}}
		if err := e.Engine.Read(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		b.Rows[0].Next = []byte(record)
		if err := e.Engine.Commit(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	put(subject(1, 7).Key, "what is this")
	put(state.Key{'D', 7}, "what is that")
	device := func(n byte) option { return func(op *store.Op) { op.Device = state.Key{'D', n} } }
	if _, _, err := s.ChangeDevice(context.Background(), state.Key{'D', 1}, state.Change{Status: state.Suspended}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		op  *store.Op
		err error
	}{
		"no subject":      {tap(1, 1, 1, func(op *store.Op) { op.Subjects[0].Version = 0 }), store.ErrSubject},
		"no policy":       {tap(1, 1, 2, func(op *store.Op) { op.Event.Policy = nil }), store.ErrEvent},
		"zero policy":     {tap(1, 1, 3, func(op *store.Op) { op.Event.Policy = &state.Policy{} }), store.ErrEvent},
		"no purpose":      {tap(1, 1, 4, func(op *store.Op) { op.Event.Purpose = 0 }), store.ErrEvent},
		"damaged":         {tap(7, 1, 5), store.ErrDamaged},
		"damaged device":  {tap(1, 1, 6, device(7)), store.ErrDamaged},
		"good":            {tap(1, 2, 7), nil},
		"unknown device":  {tap(1, 3, 8, device(2)), nil},
		"stopped device":  {tap(1, 4, 9, device(1)), nil},
		"the same device": {tap(2, 4, 10, device(1)), nil},
	} {
		good := tap(9, 1, 0)
		ask(t, s, c.op, good)
		if !errors.Is(c.op.Err, c.err) || (c.err != nil) != (c.op.Outcome == state.Outcome{}) || good.Outcome.Result != state.Accept {
			t.Errorf("%s: %+v, %v", name, c.op.Outcome, c.op.Err)
		}
		if stopped := c.op.Device == (state.Key{'D', 1}); stopped && c.op.Outcome.Result != state.Reject {
			t.Errorf("%s: %+v", name, c.op.Outcome)
		}
	}
	if _, err := s.Token(context.Background(), [2]store.Subject{subject(1, 7)}); !errors.Is(err, store.ErrDamaged) {
		t.Error(err)
	}
	if _, err := s.Token(context.Background(), [2]store.Subject{}); !errors.Is(err, store.ErrSubject) {
		t.Error(err)
	}
}

// What was submitted before Close is decided; afterwards nothing is.
func TestClose(t *testing.T) {
	t.Parallel()
	e := newEngine()
	s, err := store.New(context.Background(), e, still())
	if err != nil {
		t.Fatal(err)
	}
	d := newDesk()
	var ops []*store.Op
	for i := range 1000 {
		ops = append(ops, tap(i, 1, 0))
		ops[i].Sink = d
	}
	s.Submit()
	s.Submit(ops...)
	s.Close()
	s.Close()
	d.take(t, len(ops))
	for _, op := range ops {
		wants(t, op, state.Accept, state.Fresh)
	}
	ask(t, s, ops[0], ops[1])
	for _, op := range ops[:2] {
		if !errors.Is(op.Err, store.ErrClosed) || op.Outcome != (state.Outcome{}) {
			t.Errorf("%+v, %v", op.Outcome, op.Err)
		}
	}
}

// An owner may use an operation again as soon as it is back, from Settled itself.
func TestReused(t *testing.T) {
	t.Parallel()
	s := open(t, newEngine(), still())
	d := &resubmits{s: s, done: make(chan error, 1), left: 3000}
	ops := make([]*store.Op, 30)
	for i := range ops {
		ops[i] = tap(i%3, uint16(i), 0)
		ops[i].Sink = d
	}
	s.Submit(ops...)
	if err := <-d.done; err != nil {
		t.Error(err)
	}
}

type resubmits struct {
	s    *store.Store
	left int
	done chan error
}

func (d *resubmits) Settled(ops []*store.Op) {
	for _, op := range ops {
		if op.Outcome.Result != state.Accept || op.Outcome.Freshness == state.Repeated {
			select {
			case d.done <- fmt.Errorf("%+v, %w", op.Outcome, op.Err):
			default:
			}
		}
		if d.left--; d.left == 0 {
			close(d.done)
		} else if d.left > 0 {
			next := tap(int(op.Subjects[0].Key[7]), op.Event.ATC+30, 0)
			next.Sink = d
			*op = *next
			d.s.Submit(op)
		}
	}
}

// A state that has a mark's commit has what was changed before it.
func TestMark(t *testing.T) {
	engines(t, func(t *testing.T, e state.Engine) {
		s := open(t, e, still())
		var last uint64
		for _, change := range []func() error{
			func() error { return nil },
			func() error {
				_, _, err := s.ChangeDevice(t.Context(), state.Key{'D', 2}, state.Change{Status: state.Suspended})
				return err
			},
			func() error {
				return s.ChangeRules(t.Context(), func(r *state.Rules) error { r.Restored(1, 0); return nil })
			},
		} {
			if err := change(); err != nil {
				t.Fatal(err)
			}
			n, err := s.Mark(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if durable, err := e.Sequence(t.Context()); err != nil || durable != n || n <= last {
				t.Errorf("mark %d after %d, the state is at %d: %v", n, last, durable, err)
			}
			last = n
		}
	})
}

func TestChange(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, below state.Engine) {
		e := wrap(below)
		s, other := open(t, e, still()), open(t, below, still())
		ctx := context.Background()
		token := [2]store.Subject{subject(1, 1)}
		note := state.Note{At: noon, By: "me", Why: "lost"}
		before, after, err := s.Change(ctx, token, state.Change{Status: state.Suspended, Note: note})
		if err != nil || before.Status != 0 || after.Status != state.Suspended || after.Note != note {
			t.Fatalf("%+v, %+v, %v", before, after, err)
		}
		op := tap(1, 1, 0)
		ask(t, other, op)
		wants(t, op, state.Reject, state.Fresh)
		// Others are faster, with the record and with the control document, which
		// begins another generation.
		var n atomic.Int32
		e.set(&e.commit, func(*state.Batch) error {
			switch n.Add(1) {
			case 1:
				ask(t, other, tap(1, 1, 1, mismatched))
			case 2:
				return other.ChangeRules(ctx, func(r *state.Rules) error { r.Restored(1, 0); return nil })
			}
			return nil
		})
		if before, after, err = s.Change(ctx, token, state.Change{Status: state.Active, Reset: true}); err != nil {
			t.Fatal(err)
		}
		if before.Status != state.Suspended || len(after.Failing) != 1 || after.Generation != 1 || n.Load() != 3 {
			t.Errorf("%+v, %+v after %d commits", before, after, n.Load())
		}
		if _, _, err := s.Change(ctx, token, state.Change{Status: state.Moved}); !errors.Is(err, state.ErrChange) {
			t.Error(err)
		}
		// A caller that goes away says nothing of the engine.
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if _, _, err := s.Change(gone, token, state.Change{Status: state.Active}); err == nil || !s.Stats().Reachable {
			t.Errorf("%v, %+v", err, s.Stats())
		}
		if err := s.ChangeRules(gone, func(*state.Rules) error { return nil }); err == nil || !s.Stats().Reachable {
			t.Errorf("%v, %+v", err, s.Stats())
		}
	})
}
