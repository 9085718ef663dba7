package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// An instance that finds commits of its own missing tells the others by the
// control document, on which every commit depends: from then on no instance
// decides anything until an operator accepts the loss with raised floors.

// TellLoss notes a loss in the control document, unless it is there already.
func TellLoss(ctx context.Context, engine state.Engine, l state.Loss) error {
	for range maxAttempts {
		c, err := engine.Control(ctx)
		if err != nil {
			return err
		}
		r, err := state.ParseRules(c.Document)
		if err != nil {
			return err
		}
		if !r.Lose(l) {
			return nil
		}
		if c.Document, err = r.Marshal(); err != nil {
			return err
		}
		if _, err = engine.SetControl(ctx, c); !isControlChanged(err) {
			return err
		}
	}
	return ErrBusy
}

// lossError is why nothing is decided.
func lossError(l *state.Loss) error {
	return fmt.Errorf("%w: instance %s misses commits up to %d, and nobody has accepted that yet", state.ErrRegressed, l.Instance, l.Acknowledged)
}

// tell tells the others of a loss of this instance's own commits, once.
func (s *Store) tell(err error) {
	if s.o.Instance == "" || s.told || !errors.Is(err, state.ErrRegressed) || s.rules.Load().rules.Lost() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, commitTimeout)
	defer cancel()
	err = TellLoss(ctx, s.engine, state.Loss{Instance: s.o.Instance, Acknowledged: s.last, At: s.o.Now().Unix()})
	if err != nil {
		s.o.Log.Error("the other instances could not be told that the state is older; it is tried again", "error", err)
		return
	}
	s.told = true
	s.o.Log.Error("the other instances were told that the state is older: none decides anything until an operator accepts it")
}
