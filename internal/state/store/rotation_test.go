package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
	"github.com/tapseal/tapseal/internal/state/store"
)

func version(t *testing.T, e state.Engine, s store.Subject) uint64 {
	t.Helper()
	b := &state.Batch{Rows: []state.Row{{Key: s.Key}}}
	if err := e.Read(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return b.Rows[0].Version
}

// While the subject key rotates, a token moves once, with its next change, and
// is never two tokens.
func TestRotation(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, e state.Engine) {
		s, old := open(t, e, still()), open(t, e, still())
		first := tap(1, 10, 0)
		ask(t, old, first)
		wants(t, first, state.Accept, state.Fresh)

		// A genuine tap moves the record, also one that changes nothing else: what
		// stays is forgotten with its key.
		replay, repeat := tap(1, 10, 1, rotating), tap(1, 10, 0, rotating)
		ask(t, s, replay)
		wants(t, replay, state.Reject, state.Replayed)
		if v := version(t, e, subject(2, 1)); v == 0 {
			t.Fatal("a refused tap left the record under the previous key")
		}
		ask(t, s, repeat)
		wants(t, repeat, state.Accept, state.Repeated)
		next := tap(1, 11, 0, rotating)
		ask(t, s, next)
		wants(t, next, state.Accept, state.Fresh)
		moved, tomb := version(t, e, subject(2, 1)), version(t, e, subject(1, 1))
		if moved == 0 || tomb == 0 {
			t.Fatalf("versions %d, %d", moved, tomb)
		}
		// Who only knows the old key says nothing, new or not.
		for _, atc := range []uint16{10, 11, 12} {
			op := tap(1, atc, 5)
			ask(t, old, op)
			if !errors.Is(op.Err, store.ErrSubject) || op.Outcome != (state.Outcome{}) {
				t.Errorf("%+v, %v", op.Outcome, op.Err)
			}
		}
		if _, _, err := old.Change(context.Background(), tap(1, 1, 1).Subjects, state.Change{Status: state.Active}); !errors.Is(err, store.ErrSubject) {
			t.Error(err)
		}
		// Both names, and the new one alone, are the same token; it moves once.
		ops := []*store.Op{tap(1, 12, 0, rotating), tap(1, 12, 1, rotated), tap(1, 13, 1, rotated), tap(1, 13, 0, rotating), tap(1, 11, 0, rotated), tap(1, 10, 9, rotating)}
		ask(t, s, ops...)
		wants(t, ops[0], state.Accept, state.Fresh)
		wants(t, ops[1], state.Reject, state.Replayed)
		wants(t, ops[2], state.Accept, state.Fresh)
		wants(t, ops[3], state.Reject, state.Replayed)
		wants(t, ops[4], state.Accept, state.Repeated)
		wants(t, ops[5], state.Reject, state.Replayed)
		if v := version(t, e, subject(1, 1)); v != tomb {
			t.Errorf("moved twice: version %d, was %d", v, tomb)
		}
		// A token that is new while the key rotates leaves its old name behind.
		fresh, again := tap(2, 1, 0, rotating), tap(2, 1, 1)
		ask(t, s, fresh)
		ask(t, old, again)
		wants(t, fresh, state.Accept, state.Fresh)
		if !errors.Is(again.Err, store.ErrSubject) {
			t.Errorf("%+v, %v", again.Outcome, again.Err)
		}
	})
}

// Workers disagree on the current key: the names of one token, in one batch and
// in any order, accept a cryptogram once.
func TestTwoNamesInABatch(t *testing.T) {
	t.Parallel()
	backwards := func(op *store.Op) { // a worker that has the new key, and still uses the old one
		rotating(op)
		op.Subjects[0], op.Subjects[1] = op.Subjects[1], op.Subjects[0]
		op.Event.Requests[0], op.Event.Requests[1] = op.Event.Requests[1], op.Event.Requests[0]
	}
	names := []option{func(*store.Op) {}, rotating, rotated, backwards}
	for seen := range 2 {
		engines(t, func(t *testing.T, e state.Engine) {
			s := open(t, e, still())
			token := 0
			for a := range names {
				for b := range names {
					for c := range names {
						token++
						// A name that cannot lead to the token's record is what has to
						// be retired before the key is: not one that a worker has while
						// another one still has only the old one.
						if has(2, a, b, c) && has(0, a, b, c) && !has(1, a, b, c) {
							continue
						}
						if seen == 1 {
							op := tap(token, 1, 0)
							ask(t, s, op)
						} else if has(2, a, b, c) && a != 1 {
							continue // nobody has moved the token yet
						}
						if seen == 1 && has(2, a, b, c) {
							ask(t, s, tap(token, 2, 0, rotating))
						}
						ops := []*store.Op{
							tap(token, 5, 0, names[a]), tap(token, 5, 1, names[b]), tap(token, 5, 2, names[c]), tap(token, 5, 3, names[a]),
						}
						ask(t, s, ops...)
						checkOnce(t, ops, a, b, c)
					}
				}
			}
		})
	}
}

func has(name int, names ...int) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

func checkOnce(t *testing.T, ops []*store.Op, names ...int) {
	t.Helper()
	n := 0
	for _, op := range ops {
		if once(op) {
			n++
		}
		if op.Err != nil && !errors.Is(op.Err, store.ErrSubject) {
			t.Errorf("names %v: %v", names, op.Err)
		}
	}
	if n > 1 {
		t.Errorf("names %v: accepted %d times", names, n)
	}
}

// An engine reads two keys at two times, and another daemon moves the token in
// between.
func TestMovedWhileRead(t *testing.T) {
	t.Parallel()
	model := statetest.NewModel()
	e := &torn{engine: wrap(model)}
	s, other := open(t, e, still()), open(t, model, still())
	ask(t, other, tap(1, 1, 0), tap(2, 1, 0))
	e.between = func() { ask(t, other, tap(1, 2, 0, rotating)) }
	op := tap(1, 2, 1, rotating)
	ask(t, s, op)
	wants(t, op, state.Reject, state.Replayed)
	e.between = func() { ask(t, other, tap(2, 2, 0, rotating)) }
	r, err := s.Token(context.Background(), tap(2, 1, 0, rotating).Subjects)
	if err != nil || r.ARQC.Highest != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	// Moved to a newer key than this store knows: that does not mend itself.
	for _, sub := range []store.Subject{subject(2, 3), subject(1, 3)} {
		b := &state.Batch{Rows: []state.Row{{Key: sub.Key}}}
		if err := model.Read(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		b.Rows[0].Next = state.Tombstone().Append(nil)
		if err := model.Commit(context.Background(), b); err != nil {
			t.Fatal(err)
		}
		op := tap(3, 1, 0, rotating)
		ask(t, s, op)
		if sub == subject(2, 3) && !errors.Is(op.Err, store.ErrSubject) {
			t.Errorf("%+v, %v", op.Outcome, op.Err)
		}
	}
	b := &state.Batch{Rows: []state.Row{{Key: subject(1, 4).Key, Next: state.Tombstone().Append(nil)}}}
	if err := model.Commit(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	op = tap(4, 1, 0, rotating)
	ask(t, s, op)
	if !errors.Is(op.Err, store.ErrSubject) {
		t.Errorf("%+v, %v", op.Outcome, op.Err)
	}
}

// torn reads the rows first, and what they have moved from later.
type torn struct {
	*engine
	between func()
}

func (e *torn) Read(ctx context.Context, b *state.Batch) error {
	if err := e.engine.Read(ctx, b); err != nil || e.between == nil {
		return err
	}
	e.between()
	e.between = nil
	later := &state.Batch{Rows: make([]state.Row, len(b.Rows))}
	for i := range b.Rows {
		later.Rows[i].Key = b.Rows[i].Key
	}
	if err := e.Engine.Read(ctx, later); err != nil {
		return err
	}
	// A batch of the store's has the previous name in a row of its own, after the
	// current one; one of its administration in Also.
	for i := 1; i < len(b.Rows); i++ {
		b.Rows[i].Version, b.Rows[i].Record = later.Rows[i].Version, later.Rows[i].Record
	}
	if also := b.Rows[0].Also; also != nil {
		later = &state.Batch{Rows: []state.Row{{Key: also.Key}}}
		if err := e.Engine.Read(ctx, later); err != nil {
			return err
		}
		also.Version, also.Record = later.Rows[0].Version, later.Rows[0].Record
	}
	return nil
}
