package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tapseal/tapseal/audit"
)

// recordWithin bounds the wait for an act's record.
const recordWithin = 5 * time.Second

var (
	errActNotRecorded = errors.New("the act could not be recorded in the journal")
	// errOutcomeNotRecorded is not a failure of the act: it was done.
	errOutcomeNotRecorded = errors.New("the act was done, but its outcome could not be recorded in the journal")
)

// act does something that changes the service, between its two records in the
// journal: no record, no act. detail is what there is to say of a success. The
// act was done if there is no error, or errOutcomeNotRecorded.
func act(ctx context.Context, j *audit.Journal, r audit.Record, do func(context.Context) (detail string, err error)) error {
	return actAndMark(ctx, j, r, do, nil)
}

// actOnState is act on the state of tokens. The record of what was done has the
// number of a commit after it, so that a state without the act is an older one.
func (e *engine) actOnState(ctx context.Context, r audit.Record, do func(context.Context) (detail string, err error)) error {
	return actAndMark(ctx, e.journal, r, do, e.store.Mark)
}

// actAndMark is act; mark, if not nil, gives what the second record says of the
// state. Without an answer the act stands all the same.
func actAndMark(
	ctx context.Context, j *audit.Journal, r audit.Record, do func(context.Context) (string, error), mark func(context.Context) (uint64, error),
) error {
	r.RequestID, r.Outcome = "act-"+strings.ToLower(rand.Text()), audit.OutcomeIntended
	if err := recordAct(ctx, j, r); err != nil {
		return fmt.Errorf("%w, and was not done: %w", errActNotRecorded, err)
	}
	// Once begun it is finished, whether or not somebody still waits.
	ctx = context.WithoutCancel(ctx)
	detail, failure := do(ctx)
	r.Outcome, r.Detail = audit.OutcomeDone, fit(detail)
	if failure != nil {
		r.Outcome, r.Detail = audit.OutcomeFailed, fit(failure.Error())
	} else if mark != nil {
		ctx, cancel := context.WithTimeout(ctx, stateWithin)
		r.StateSequence, _ = mark(ctx)
		cancel()
	}
	err := recordAct(ctx, j, r)
	switch {
	case err == nil:
		return failure
	case failure != nil:
		return fmt.Errorf("%w; that could not be recorded in the journal: %w", failure, err)
	}
	return fmt.Errorf("%w: %w", errOutcomeNotRecorded, err)
}

// wasDone reports whether the act was done that act returned err for.
func wasDone(err error) bool { return err == nil || errors.Is(err, errOutcomeNotRecorded) }

func recordAct(ctx context.Context, j *audit.Journal, r audit.Record) error {
	ctx, cancel := context.WithTimeout(ctx, recordWithin)
	defer cancel()
	return j.AppendAct(ctx, r)
}

// fit makes text one line of what a record takes.
func fit(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= audit.MaxFieldBytes {
		return text
	}
	const more = " ..."
	return strings.ToValidUTF8(text[:audit.MaxFieldBytes-len(more)], "") + more
}
