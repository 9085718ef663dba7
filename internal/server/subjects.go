package server

import (
	"context"
	"errors"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/keys"
)

// checkSubjects compares the subject keys of the workers with those that the
// state was made with. Nothing is decided before they fit, and from the moment
// that they do not.
func (e *engine) checkSubjects(ctx context.Context) error {
	if !e.pool.Ready() {
		return nil // nobody hashes anything; what was known holds
	}
	current, previous := e.pool.SubjectKeys()
	if current == (keys.ID{}) {
		e.subjectsFit.Store(false)
		return errNoSubjects
	}
	err := e.fitSubjects(ctx, keyName(current), keyName(previous))
	if errors.Is(err, state.ErrUnavailable) {
		return err // nobody knows, and nothing is decided without the state anyway
	}
	e.subjectsFit.Store(err == nil)
	return err
}

func keyName(id keys.ID) string {
	if id == (keys.ID{}) {
		return ""
	}
	return id.String()
}

var errUnchanged = errors.New("the rules stay as they are")

func (e *engine) fitSubjects(ctx context.Context, current, previous string) error {
	now := *e.store.Rules() // FitKeys changes no more than the copy's names
	changed, err := now.FitKeys(current, previous)
	if err != nil || !changed {
		return err
	}
	err = e.store.ChangeRules(ctx, func(r *state.Rules) error {
		changed, err := r.FitKeys(current, previous)
		if err == nil && !changed {
			return errUnchanged
		}
		return err
	})
	if errors.Is(err, errUnchanged) {
		return nil // another daemon was faster
	}
	if err == nil {
		e.log.Info("the subject key of the state", "key", current, "previous", previous)
	}
	return err
}
