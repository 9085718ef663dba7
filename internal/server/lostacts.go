package server

import (
	"context"
	"fmt"
	"time"

	"github.com/tapseal/tapseal/audit"
)

// maxLostActs bounds the acts that a StateReport lists; the last ones are.
const maxLostActs = 100

// A LostAct is an act of administration in the journal that a state may not know
// of.
type LostAct struct {
	Time    time.Time `json:"time"`
	Action  string    `json:"action"`
	Subject string    `json:"subject"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
}

// lostActs are the acts after the last record that a state is known to hold.
type lostActs struct {
	acts    []LostAct // the last maxLostActs, oldest first
	leftOut int       // before them
	problem string    // why there may be more; empty for none
}

// lostSince reads the whole journal for the acts after the last record whose
// commit is not above known. An act whose record has no commit, because the state
// did not answer after it, is among them also if the state was saved just after
// it. Damage does not end the care for a state: it is said.
func lostSince(ctx context.Context, journalDir string, known uint64) (lostActs, error) {
	l := lostActs{acts: []LostAct{}}
	for r, err := range audit.ReadDir(journalDir) {
		if ctx.Err() != nil {
			return l, fmt.Errorf("reading the journal for acts: %w", context.Cause(ctx))
		}
		switch {
		case err != nil:
			l.problem = err.Error()
		case r.StateSequence != 0 && r.StateSequence <= known:
			l = lostActs{acts: l.acts[:0]}
		case r.Outcome == audit.OutcomeDone && changesState(r.Action):
			l.add(&r)
		}
	}
	return l, nil
}

func changesState(a audit.Action) bool {
	switch a {
	case audit.ActionSuspend, audit.ActionResume, audit.ActionDelete, audit.ActionRestrict, audit.ActionResetWindow:
		return true
	default:
		return false
	}
}

func (l *lostActs) add(r *audit.Record) {
	if len(l.acts) == maxLostActs {
		l.acts = append(l.acts[:0], l.acts[1:]...)
		l.leftOut++
	}
	by := r.Principal
	if by == "" {
		by = r.Caller
	}
	l.acts = append(l.acts, LostAct{Time: r.Time, Action: r.Action.String(), Subject: r.Subject, By: by, Reason: r.Reason})
}
