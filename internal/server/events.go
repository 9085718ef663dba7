package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/authz"
)

const (
	// eventsInMessage bounds a message, and what a watch holds at one time.
	eventsInMessage = 256
	// maxWatches bounds the readers of the journal: each has a file open.
	maxWatches = 64
	// watchPace is the least time between two looks at a journal that grows, so
	// that a watch costs the same at a hundred as at ten thousand taps a second.
	watchPace = 20 * time.Millisecond
	// cursorEvery is after how many records without an event for this caller the
	// cursor is sent all the same.
	cursorEvery = 16_384
)

var errStopping = status.Error(codes.Unavailable, "the service is shutting down: follow again after the last cursor")

// WatchEvents follows the journal. gRPC's flow control makes a watch as slow as its
// reader, and the journal does not notice.
func (a *administration) WatchEvents(m *tapsealv1.WatchEventsRequest, s tapsealv1.AdminService_WatchEventsServer) error {
	c, err := callerOf(s.Context())
	if err != nil {
		return err
	}
	kinds, err := readKinds(m.GetKinds())
	if err != nil {
		return invalid(err)
	}
	if a.watches.Add(1) > maxWatches {
		a.watches.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d watches are open already, which is the most of one instance", maxWatches)
	}
	defer a.watches.Add(-1)
	last, after := a.e.journal.Stats().LastSequence, m.GetAfterSequence()
	if m.GetFromNow() {
		after = last
	}
	f, err := a.e.journal.Follow(after)
	if err != nil {
		return followError(err)
	}
	defer f.Close()
	ctx, cancel := a.untilDraining(s.Context())
	defer cancel(nil)
	w := &watch{caller: *c, kinds: kinds, from: f, to: s, until: math.MaxUint64, sent: after}
	if m.GetUntilNow() {
		w.until = last
	}
	if m.GetFromNow() { // from here on the cursor is good, whatever comes
		if err := w.send(nil); err != nil {
			return err
		}
	}
	return w.run(ctx)
}

// untilDraining ends a watch, also a busy one, when the service stops.
func (a *administration) untilDraining(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-a.e.draining:
			cancel(errStopping)
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// followError is the status of a cursor from which nobody can follow.
func followError(err error) error {
	var cursor *audit.CursorError
	switch {
	case !errors.As(err, &cursor):
		return journalError(err)
	case cursor.After > cursor.Last:
		return status.Errorf(codes.OutOfRange, "after_sequence: %s: the cursor is of another instance or of another journal; use one of this instance's, or from_now", cursor)
	}
	return status.Errorf(codes.OutOfRange, "after_sequence: %s: what is missing is in the segments that were moved away, for tapseal journal show; here go on after %d",
		cursor, cursor.First-1)
}

func journalError(err error) error {
	var corrupt *audit.CorruptError
	if errors.As(err, &corrupt) {
		return status.Error(codes.DataLoss, err.Error())
	}
	return status.Error(codes.Internal, err.Error())
}

// kindSet has bit n for EventKind n.
type kindSet uint16

const everyKind = kindSet(1<<(tapsealv1.EventKind_EVENT_KIND_JOURNAL+1) - 2)

func readKinds(list []tapsealv1.EventKind) (s kindSet, err error) {
	for i, k := range list {
		if k <= 0 || k > tapsealv1.EventKind_EVENT_KIND_JOURNAL {
			return 0, fmt.Errorf("kinds[%d]: is not a known kind", i)
		}
		s |= 1 << k
	}
	if s == 0 {
		s = everyKind
	}
	return s, nil
}

// A watch is one reader of events.
type watch struct {
	caller caller // asked again for each batch: roles may end
	kinds  kindSet
	from   *audit.Follower
	to     tapsealv1.AdminService_WatchEventsServer
	until  uint64 // the last sequence that is wanted
	sent   uint64 // the last cursor that was sent
}

func (w *watch) run(ctx context.Context) error {
	recs := make([]audit.Record, eventsInMessage)
	for {
		n, err := w.from.Read(recs[:min(eventsInMessage, w.until-w.from.Cursor())])
		if err != nil {
			return journalError(err)
		}
		events, err := w.look(recs[:n])
		if err != nil {
			return err
		}
		atEnd := w.from.Cursor() >= w.until
		if len(events) > 0 || atEnd || w.from.Cursor()-w.sent >= cursorEvery {
			if err := w.send(events); err != nil {
				return err
			}
		}
		switch {
		case atEnd:
			return nil
		case ctx.Err() != nil:
			return lost(ctx)
		case n == 0:
			if err := w.wait(ctx); err != nil {
				return err
			}
		}
	}
}

// wait waits for more, and then a little longer for company.
func (w *watch) wait(ctx context.Context) error {
	if err := w.from.Wait(ctx); errors.Is(err, audit.ErrClosed) {
		return errStopping
	} else if err != nil {
		return lost(ctx)
	}
	t := time.NewTimer(watchPace)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return lost(ctx)
	}
}

func (w *watch) send(events []*tapsealv1.Event) error {
	w.sent = w.from.Cursor()
	return w.to.Send(&tapsealv1.WatchEventsResponse{Events: events, Cursor: w.sent})
}

// look picks what the caller asked for and, with the roles of this moment, may see.
func (w *watch) look(recs []audit.Record) (events []*tapsealv1.Event, err error) {
	if len(recs) == 0 {
		return nil, nil
	}
	who, err := w.caller.principal(time.Now())
	if err != nil {
		return nil, err
	}
	roles, names := who.Roles(), who.Identities()
	for i := range recs {
		r := &recs[i]
		kind := kindOf(r)
		if w.kinds>>kind&1 != 0 && sees(roles, names, kind, r) {
			events = append(events, protoEvent(kind, r))
		}
	}
	return events, nil
}

// sees says who may see what. What no line allows, nobody sees.
func sees(roles authz.RoleSet, names []string, kind tapsealv1.EventKind, r *audit.Record) bool {
	switch {
	case roles.Has(authz.RoleAuditor), roles.Has(authz.RoleSecurityOfficer):
		return true
	case roles.Has(authz.RoleOperator):
		return kind != tapsealv1.EventKind_EVENT_KIND_DECISION || r.Reasons[0] != 0
	case roles.Has(authz.RoleCaller):
		return r.Kind == audit.KindDecision && slices.Contains(names, r.Caller)
	}
	return false
}

// kindOf says what a record is about: of a tap that was refused what its first
// reason says, and of another one the first reason that has a kind of its own.
func kindOf(r *audit.Record) tapsealv1.EventKind {
	switch r.Kind {
	case audit.KindAdministration:
		return tapsealv1.EventKind_EVENT_KIND_ACT
	case audit.KindRecovered:
		return tapsealv1.EventKind_EVENT_KIND_JOURNAL
	case audit.KindDecision:
	}
	verdict := tapsealv1.Verdict(r.Verdict)
	for _, reason := range r.Reasons {
		switch tapsealv1.Reason(reason) {
		case tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH:
			return tapsealv1.EventKind_EVENT_KIND_FAILURE
		case tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED:
			return tapsealv1.EventKind_EVENT_KIND_REPLAY
		case tapsealv1.Reason_REASON_ATTEMPTS_LIMITED, tapsealv1.Reason_REASON_VELOCITY_COUNT, tapsealv1.Reason_REASON_VELOCITY_AMOUNT:
			return tapsealv1.EventKind_EVENT_KIND_LIMIT
		default:
			if verdict == tapsealv1.Verdict_VERDICT_INVALID {
				return tapsealv1.EventKind_EVENT_KIND_REFUSAL
			}
		}
	}
	switch verdict {
	case tapsealv1.Verdict_VERDICT_VALID:
		return tapsealv1.EventKind_EVENT_KIND_DECISION
	case tapsealv1.Verdict_VERDICT_INVALID:
		return tapsealv1.EventKind_EVENT_KIND_REFUSAL
	default:
		return tapsealv1.EventKind_EVENT_KIND_TROUBLE
	}
}

func protoEvent(kind tapsealv1.EventKind, r *audit.Record) *tapsealv1.Event {
	e := &tapsealv1.Event{
		Sequence: r.Sequence, Time: timestamppb.New(r.Time), Kind: kind, Caller: r.Caller, RequestId: r.RequestID,
	}
	switch r.Kind {
	case audit.KindAdministration:
		e.Action, e.Outcome = r.Action.String(), r.Outcome.String()
		e.Principal, e.Subject, e.Why = r.Principal, r.Subject, r.Reason
	case audit.KindDecision:
		writeTapEvent(e, r)
	case audit.KindRecovered:
	}
	return e
}

func writeTapEvent(e *tapsealv1.Event, r *audit.Record) {
	e.Verdict, e.Freshness = tapsealv1.Verdict(r.Verdict), tapsealv1.Freshness(r.Freshness)
	e.Assignment, e.TokenRef = r.Assignment, r.Token.String()
	for _, reason := range r.Reasons {
		if reason == 0 {
			break
		}
		e.Reasons = append(e.Reasons, tapsealv1.Reason(reason))
	}
	if p, ok := cryptogram.LookupProfile(cryptogram.ProfileID(r.Profile)); ok {
		e.Profile = p.Name
	}
	if r.KeySet != "" {
		e.Key = &tapsealv1.KeyName{KeySet: r.KeySet, Version: r.KeyVersion}
	}
}
