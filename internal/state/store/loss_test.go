package store_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
	"github.com/tapseal/tapseal/internal/state/store"
)

// An instance that finds its commits missing stops the others, until a loss is
// accepted; then they go on by themselves.
func TestALossStopsEveryInstance(t *testing.T) {
	shared := statetest.NewModel()
	first, second := wrap(shared), wrap(shared)
	o := still()
	o.Instance = "first"
	a := open(t, first, o)
	o.Instance = "second"
	b := open(t, second, o)
	ok := tap(1, 1, 1)
	ask(t, a, ok)
	wants(t, ok, state.Accept, state.Fresh)

	first.set(&first.read, func(*state.Batch) error { return &state.LostCommits{Acknowledged: ok.Sequence} })
	op := tap(1, 2, 2)
	ask(t, a, op)
	if !errors.Is(op.Err, state.ErrRegressed) {
		t.Fatalf("at the one that lost: %v", op.Err)
	}
	op = tap(1, 3, 3)
	ask(t, b, op)
	if !errors.Is(op.Err, state.ErrRegressed) {
		t.Fatalf("at the other one: %+v, %v", op.Outcome, op.Err)
	}
	l := *rules(t, shared).Lost()
	if l.Instance != "first" || l.Acknowledged != ok.Sequence || l.At != noon {
		t.Errorf("told %+v, want that of commit %d", l, ok.Sequence)
	}
	if told, err := store.TellLoss(t.Context(), shared, l, time.Now()); err != nil || told {
		t.Fatal(told, err)
	}
	if n := len(rules(t, shared).Losses); n != 1 {
		t.Errorf("%d losses after it was told twice", n)
	}

	if err := b.ChangeRules(t.Context(), func(r *state.Rules) error { r.Restored(10, 0); return nil }); err != nil {
		t.Fatal(err)
	}
	// Started once more, before it has accepted.
	if told, err := store.TellLoss(t.Context(), shared, l, time.Now()); err != nil || told {
		t.Fatal(told, err)
	}
	op = tap(1, 3, 3)
	ask(t, b, op)
	if op.Err != nil || op.Outcome.Result != state.Reject {
		t.Errorf("under the floor: %+v, %v", op.Outcome, op.Err)
	}
	op = tap(1, 12, 4)
	ask(t, b, op)
	wants(t, op, state.Accept, state.Fresh)
}

// A notice has an epoch that no instance has seen, also where the database has
// lost control documents as well.
func TestALossIsNotTakenForADocumentThatWasLost(t *testing.T) {
	for _, changes := range []int{1, 2} {
		e := newEngine()
		o := still()
		o.Instance = "idle"
		s := open(t, e, o)
		for range changes {
			if err := s.ChangeRules(t.Context(), func(*state.Rules) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
		restored := statetest.NewModel()
		e.mu.Lock()
		e.Engine = restored
		e.mu.Unlock()
		now := o.Now().Add(time.Minute)
		if told, err := store.TellLoss(t.Context(), restored, state.Loss{Instance: "busy", Acknowledged: 9}, now); err != nil || !told {
			t.Fatal(told, err)
		}
		op := tap(1, 1, 1)
		ask(t, s, op)
		if !errors.Is(op.Err, state.ErrRegressed) {
			t.Errorf("after %d changes that were lost: %+v, %v", changes, op.Outcome, op.Err)
		}
		if s.Stats().Reachable {
			t.Error("it says that the state answers")
		}
	}
}

// An instance that nobody asks anything finds its loss too.
func TestALossWhileIdle(t *testing.T) {
	shared := statetest.NewModel()
	e := wrap(shared)
	o := still()
	o.Instance = "idle"
	s := open(t, e, o)
	e.set(&e.read, func(*state.Batch) error { return &state.LostCommits{Acknowledged: 7} })
	for end := time.Now().Add(30 * time.Second); rules(t, shared).Lost() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it has told nobody")
		}
	}
	if l := rules(t, shared).Lost(); l.Acknowledged != 7 || s.Stats().Reachable {
		t.Errorf("told %+v, reachable %v", l, s.Stats().Reachable)
	}
}

// The only instance of a state has nobody to tell.
func TestALossOfTheOnlyInstance(t *testing.T) {
	e := newEngine()
	s := open(t, e, still())
	e.set(&e.read, func(*state.Batch) error { return &state.LostCommits{Acknowledged: 1} })
	op := tap(1, 1, 1)
	ask(t, s, op)
	if !errors.Is(op.Err, state.ErrRegressed) {
		t.Fatal(op.Err)
	}
	if c, err := e.Engine.Control(t.Context()); err != nil || c.Epoch != 0 {
		t.Errorf("epoch %d, %v", c.Epoch, err)
	}
}

func rules(t *testing.T, e state.Engine) *state.Rules {
	t.Helper()
	c, err := e.Control(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r, err := state.ParseRules(c.Document)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
