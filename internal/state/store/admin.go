package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// Token reads the record of a token; it does not exist if its Status is 0.
func (s *Store) Token(ctx context.Context, subjects [2]Subject) (*state.Record, error) {
	r, _, err := s.read(ctx, subjects)
	return r, err
}

// Device reads the record of a device.
func (s *Store) Device(ctx context.Context, k state.Key) (*state.Record, error) {
	return s.Token(ctx, [2]Subject{{Version: 1, Key: k}})
}

// Change changes a token's record, and gives it before and after. It is in
// force, on every daemon of the state, when Change returns.
func (s *Store) Change(ctx context.Context, subjects [2]Subject, c state.Change) (before, after *state.Record, err error) {
	for range maxAttempts {
		before, b, err := s.read(ctx, subjects)
		if err != nil {
			return nil, nil, err
		}
		rules := s.rules.Load()
		if b.Epoch != rules.epoch {
			if err := s.loadRules(ctx); err != nil {
				return nil, nil, s.noteFor(ctx, err)
			}
			continue
		}
		after := &state.Record{}
		if err := after.Decode(recordOf(b)); err != nil {
			return nil, nil, ErrDamaged
		}
		if err := c.Apply(after, rules.rules.Generation); err != nil {
			return nil, nil, err
		}
		written, err := s.write(ctx, b, after)
		if err != nil && !isControlChanged(err) {
			return nil, nil, err
		}
		if written {
			return before, after, nil
		}
	}
	return nil, nil, ErrBusy
}

// ChangeDevice changes a device's record.
func (s *Store) ChangeDevice(ctx context.Context, k state.Key, c state.Change) (before, after *state.Record, err error) {
	return s.Change(ctx, [2]Subject{{Version: 1, Key: k}}, c)
}

// read reads a record, again if another daemon moves it meanwhile.
func (s *Store) read(ctx context.Context, subjects [2]Subject) (*state.Record, *state.Batch, error) {
	if subjects[0].Version == 0 {
		return nil, nil, ErrSubject
	}
	for range maxAttempts {
		b := &state.Batch{Rows: []state.Row{{Key: subjects[0].Key}}}
		if subjects[1].Version != 0 {
			b.Rows[0].Also = &state.Row{Key: subjects[1].Key}
		}
		if err := s.noteFor(ctx, s.engine.Read(ctx, b)); err != nil {
			return nil, nil, err
		}
		r := &state.Record{}
		if err := r.Decode(recordOf(b)); err != nil {
			return nil, nil, ErrDamaged
		}
		if r.Status != state.Moved {
			return r, b, nil
		}
		if b.Rows[0].Version != 0 {
			break
		}
	}
	return nil, nil, ErrSubject
}

// noteFor notes an engine's answer to a caller. Where the caller has gone, it
// says nothing of the engine.
func (s *Store) noteFor(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.Is(err, state.ErrBroken) {
		s.note(err)
	}
	return err
}

// recordOf is the record in force: under the current subject key, else under the
// previous one.
func recordOf(b *state.Batch) []byte {
	row := &b.Rows[0]
	if row.Version == 0 && row.Also != nil {
		return row.Also.Record
	}
	return row.Record
}

func (s *Store) write(ctx context.Context, b *state.Batch, r *state.Record) (bool, error) {
	row := &b.Rows[0]
	row.Next = r.Append(nil)
	if len(row.Next) > state.MaxRecordBytes {
		return false, fmt.Errorf("the record would have %d bytes, at most %d are possible: shorten the restriction's lists", len(row.Next), state.MaxRecordBytes)
	}
	switch {
	case row.Also == nil:
	case row.Version == 0:
		row.Also.Next = state.Tombstone().Append(nil)
	default:
		row.Also = nil // it has moved before
	}
	if err := s.noteFor(ctx, s.engine.Commit(ctx, b)); err != nil {
		return false, err
	}
	return row.Written, nil
}

// ChangeRules changes the control document. change sees the one in force, and
// may be called again if another daemon was faster.
func (s *Store) ChangeRules(ctx context.Context, change func(*state.Rules) error) error {
	for range maxAttempts {
		c, err := s.engine.Control(ctx)
		if s.noteFor(ctx, err) != nil {
			return err
		}
		r, err := state.ParseRules(c.Document)
		if err != nil {
			return err
		}
		if err := change(r); err != nil {
			return err
		}
		if c.Document, err = r.Marshal(); err != nil {
			return err
		}
		c.Least = state.EpochAt(s.o.Now())
		epoch, err := s.engine.SetControl(ctx, c)
		switch {
		case err == nil:
			s.rules.Store(&epochRules{epoch, r})
			return nil
		case !isControlChanged(err):
			return s.noteFor(ctx, err)
		}
	}
	return ErrBusy
}

// Mark is the function of that name on the store's engine.
func (s *Store) Mark(ctx context.Context) (uint64, error) {
	n, err := Mark(ctx, s.engine)
	return n, s.noteFor(ctx, err)
}

// Mark commits nothing and gives the number of that commit: a state that has it
// also has what was changed before.
func Mark(ctx context.Context, engine state.Engine) (uint64, error) {
	for range maxAttempts {
		b := &state.Batch{}
		if err := engine.Read(ctx, b); err != nil {
			return 0, err
		}
		if err := engine.Commit(ctx, b); !isControlChanged(err) {
			return b.Sequence, err
		}
	}
	return 0, ErrBusy
}

func isControlChanged(err error) bool { return errors.Is(err, state.ErrControlChanged) }
