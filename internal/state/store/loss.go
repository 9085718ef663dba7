package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tapseal/tapseal/internal/state"
)

// An instance that finds commits of its own missing tells the others by the
// control document, on which every commit depends: from then on no instance
// decides anything until an operator accepts the loss with raised floors.

// TellLoss notes a loss in the control document, and reports whether it was not
// there already.
func TellLoss(ctx context.Context, engine state.Engine, l state.Loss, now time.Time) (told bool, err error) {
	l.At = now.Unix()
	for range maxAttempts {
		c, err := engine.Control(ctx)
		if err != nil {
			return false, err
		}
		r, err := state.ParseRules(c.Document)
		if err != nil {
			return false, err
		}
		if !r.Lose(l) {
			return false, nil
		}
		if c.Document, err = r.Marshal(); err != nil {
			return false, err
		}
		c.Least = state.EpochAt(now)
		if _, err = engine.SetControl(ctx, c); !isControlChanged(err) {
			return err == nil, err
		}
	}
	return false, ErrBusy
}

// lossError is why nothing is decided.
func lossError(l *state.Loss) error {
	return fmt.Errorf("%w: instance %s misses commits up to %d; accept the loss with: tapseald state accept --config FILE",
		state.ErrRegressed, l.Instance, l.Acknowledged)
}

// tellEvery bounds how often a loss is looked for in the control document.
const tellEvery = time.Second

// tell tells the others if the engine has found commits of this instance missing.
// It is told again if a restored document has forgotten it.
func (s *Store) tell(err error) {
	var lost *state.LostCommits
	if s.o.Instance == "" || !errors.As(err, &lost) || time.Since(s.told) < tellEvery {
		return
	}
	s.told = time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, tellEvery)
	defer cancel()
	told, err := TellLoss(ctx, s.engine, state.Loss{Instance: s.o.Instance, Acknowledged: lost.Acknowledged}, s.o.Now())
	switch {
	case err != nil:
		s.o.Log.Error("the other instances could not be told that the state is older; it is tried again", "error", err)
	case told:
		s.o.Log.Error("the other instances were told that the state is older: none decides anything until an operator accepts it")
	}
}
