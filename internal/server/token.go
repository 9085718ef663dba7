package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
)

// stateWithin bounds the wait for the state.
const stateWithin = 10 * time.Second

// Show says what is known of a target.
func (a *administration) Show(ctx context.Context, m *tapsealv1.ShowRequest) (*tapsealv1.ShowResponse, error) {
	t, err := a.readTarget(ctx, m.GetTarget())
	if err != nil {
		return nil, err
	}
	if !t.isStop() {
		r, err := a.recordOf(ctx, &t)
		if err != nil {
			return nil, stateError(err)
		}
		return &tapsealv1.ShowResponse{State: tokenState(&t, r)}, nil
	}
	rules, err := a.rulesNow(ctx)
	if err != nil {
		return nil, stateError(err)
	}
	i := slices.IndexFunc(rules.Stops, func(s state.StandingStop) bool { return covers(&s, &t.stop) })
	if i < 0 {
		return &tapsealv1.ShowResponse{State: stopState(nil)}, nil
	}
	return &tapsealv1.ShowResponse{State: stopState(&rules.Stops[i])}, nil
}

// ListStops lists the standing stops.
func (a *administration) ListStops(ctx context.Context, _ *tapsealv1.ListStopsRequest) (*tapsealv1.ListStopsResponse, error) {
	rules, err := a.rulesNow(ctx)
	if err != nil {
		return nil, stateError(err)
	}
	out := &tapsealv1.ListStopsResponse{}
	for i := range rules.Stops {
		s := &rules.Stops[i]
		stop := &tapsealv1.StandingStop{Target: &tapsealv1.Target{}, State: stopState(s)}
		switch s.Kind {
		case state.StopsBIN:
			stop.Target.What = &tapsealv1.Target_BinRange{BinRange: s.Name}
		case state.StopsKey:
			stop.Target.What = &tapsealv1.Target_Key{Key: &tapsealv1.KeyName{KeySet: s.KeySet, Version: s.KeyVersion}}
		}
		out.Stops = append(out.Stops, stop)
	}
	return out, nil
}

// Suspend stops a target.
func (a *administration) Suspend(ctx context.Context, m *tapsealv1.SuspendRequest) (*tapsealv1.SuspendResponse, error) {
	e, err := a.alter(ctx, m.GetTarget(), alteration{
		action: audit.ActionSuspend, reason: m.GetReason(), dry: m.DryRun == nil || m.GetDryRun(),
		change: state.Change{Status: state.Suspended},
	})
	if err != nil {
		return nil, err
	}
	return &tapsealv1.SuspendResponse{Effect: e}, nil
}

// Resume lets a target go on.
func (a *administration) Resume(ctx context.Context, m *tapsealv1.ResumeRequest) (*tapsealv1.ResumeResponse, error) {
	e, err := a.alter(ctx, m.GetTarget(), alteration{
		action: audit.ActionResume, reason: m.GetReason(), dry: m.DryRun == nil || m.GetDryRun(),
		change: state.Change{Status: state.Active}, known: true,
	})
	if err != nil {
		return nil, err
	}
	return &tapsealv1.ResumeResponse{Effect: e}, nil
}

// Delete stops a token or device for good.
func (a *administration) Delete(ctx context.Context, m *tapsealv1.DeleteRequest) (*tapsealv1.DeleteResponse, error) {
	e, err := a.alter(ctx, m.GetTarget(), alteration{
		action: audit.ActionDelete, reason: m.GetReason(), dry: m.DryRun == nil || m.GetDryRun(),
		change: state.Change{Status: state.Deleted},
	})
	if err != nil {
		return nil, err
	}
	return &tapsealv1.DeleteResponse{Effect: e}, nil
}

// Restrict says where a token may be used.
func (a *administration) Restrict(ctx context.Context, m *tapsealv1.RestrictRequest) (*tapsealv1.RestrictResponse, error) {
	r, err := readRestriction(m.GetRestriction())
	if err != nil {
		return nil, invalid(err)
	}
	e, err := a.alter(ctx, tokenTarget(m.GetToken()), alteration{
		action: audit.ActionRestrict, reason: m.GetReason(), dry: m.DryRun == nil || m.GetDryRun(),
		change: state.Change{Restrict: &r},
	})
	if err != nil {
		return nil, err
	}
	return &tapsealv1.RestrictResponse{Effect: e}, nil
}

// ResetWindow forgets a token's counters.
func (a *administration) ResetWindow(ctx context.Context, m *tapsealv1.ResetWindowRequest) (*tapsealv1.ResetWindowResponse, error) {
	if m.GetFloorAtc() > 0xFFFF {
		return nil, invalid(errors.New("floor_atc: must be at most 65535"))
	}
	e, err := a.alter(ctx, tokenTarget(m.GetToken()), alteration{
		action: audit.ActionResetWindow, reason: m.GetReason(), dry: m.DryRun == nil || m.GetDryRun(),
		change: state.Change{Reset: true, ResetFloor: uint16(m.GetFloorAtc())}, known: true, //nolint:gosec // checked
	})
	if err != nil {
		return nil, err
	}
	return &tapsealv1.ResetWindowResponse{Effect: e}, nil
}

func tokenTarget(m *tapsealv1.TokenName) *tapsealv1.Target {
	return &tapsealv1.Target{What: &tapsealv1.Target_Token{Token: m}}
}

// An alteration is an act on a target.
type alteration struct {
	action audit.Action
	reason string
	dry    bool
	change state.Change
	known  bool // it makes no sense for what nobody knows
}

// alter does an act, or says what it would do. Dry runs read only and are not
// recorded.
func (a *administration) alter(ctx context.Context, m *tapsealv1.Target, c alteration) (*tapsealv1.Effect, error) {
	r, err := a.record(ctx, c.reason)
	if err != nil {
		return nil, err
	}
	t, err := a.readTarget(ctx, m)
	if err != nil {
		return nil, err
	}
	r.Action, r.Subject = c.action, t.subject
	c.change.Note = state.Note{At: time.Now().Unix(), By: r.Principal, Why: c.reason}
	if !t.isStop() {
		return a.alterRecord(ctx, &t, &c, r)
	}
	if c.action == audit.ActionDelete {
		return nil, invalid(errors.New("target: only a token or a device can be deleted; suspend a BIN range or key"))
	}
	return a.alterStop(ctx, &t, &c, r)
}

// alterRecord changes a token or device.
func (a *administration) alterRecord(ctx context.Context, t *target, c *alteration, r audit.Record) (*tapsealv1.Effect, error) {
	before, err := a.recordOf(ctx, t)
	if err != nil {
		return nil, stateError(err)
	}
	if c.known && !before.Known() {
		return nil, status.Error(codes.NotFound, "nothing is known of this target: nobody registered it, and no cryptogram of it was accepted")
	}
	after, err := c.try(before)
	if err != nil {
		return nil, stateError(err)
	}
	out := &tapsealv1.Effect{Before: tokenState(t, before), After: tokenState(t, after)}
	if c.dry {
		return out, nil
	}
	// While the subject key rotates, an act moves the record to the current key, if
	// it does nothing else.
	if c.idle(before) && t.token[1].Version == 0 {
		out.After = out.GetBefore()
		return out, nil
	}
	err = a.e.actOnState(ctx, r, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, stateWithin)
		defer cancel()
		before, after, err := a.e.store.Change(ctx, t.subjects(), c.change)
		if err != nil {
			return "", err
		}
		out.Before, out.After, out.Applied = tokenState(t, before), tokenState(t, after), true
		return c.tell(before, after), nil
	})
	if err != nil {
		return nil, a.actFailed(r, err)
	}
	return out, nil
}

// try is what the record would be.
func (c *alteration) try(before *state.Record) (*state.Record, error) {
	after := &state.Record{}
	if before.Status != 0 {
		if err := after.Decode(before.Append(nil)); err != nil {
			return nil, store.ErrDamaged
		}
	}
	return after, c.change.Apply(after, before.Generation)
}

// idle reports whether there is nothing to do.
func (c *alteration) idle(before *state.Record) bool {
	switch {
	case c.change.Reset:
		return false
	case c.change.Restrict != nil:
		return before.Known() && sameRestriction(c.change.Restrict, &before.Restricted)
	}
	return before.Status == c.change.Status
}

func sameRestriction(a, b *state.Restriction) bool {
	return a.Device == b.Device && a.Channels == b.Channels && a.AmountCap == b.AmountCap &&
		slices.Equal(a.Currencies, b.Currencies) && slices.Equal(a.Categories, b.Categories) &&
		slices.Equal(a.Merchants, b.Merchants) && slices.Equal(a.Terminals, b.Terminals)
}

// tell is the change for the journal.
func (c *alteration) tell(before, after *state.Record) string {
	switch {
	case c.change.Reset:
		return fmt.Sprintf("highest counter was %d, floor %d is %d", before.ARQC.Highest, before.Floor, after.Floor)
	case c.change.Restrict != nil:
		r := &after.Restricted
		if r.IsZero() {
			return "not restricted any more"
		}
		return fmt.Sprintf("bound to a device: %t, channels %05b, amount cap %d, currencies %d, categories %d, merchants %d, terminal types %d",
			r.Device != state.NameHash{}, r.Channels>>1, r.AmountCap, len(r.Currencies), len(r.Categories), len(r.Merchants), len(r.Terminals))
	}
	return fmt.Sprintf("was %s, is %s", statusName(before), statusName(after))
}

func statusName(r *state.Record) string {
	switch r.Status {
	case state.Active:
		return "active"
	case state.Suspended:
		return "suspended"
	case state.Deleted:
		return "deleted"
	case state.Moved, state.Noted:
	}
	return "not known"
}

// subjects name the record of a token or device.
func (t *target) subjects() [2]store.Subject {
	if t.isToken() {
		return t.token
	}
	return [2]store.Subject{{Version: 1, Key: t.device}}
}

func (a *administration) recordOf(ctx context.Context, t *target) (*state.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWithin)
	defer cancel()
	return a.e.store.Token(ctx, t.subjects())
}

// alterStop adds or lifts a standing stop.
func (a *administration) alterStop(ctx context.Context, t *target, c *alteration, r audit.Record) (*tapsealv1.Effect, error) {
	stops := c.action == audit.ActionSuspend
	if stops && t.stop.Kind == state.StopsKey && !a.assigned(&t.stop) {
		return nil, status.Error(codes.NotFound, "target.key: no assignment of this service uses such a key, so stopping it would stop nothing: tapseal keys list has the names")
	}
	stop := t.stop
	stop.At, stop.By, stop.Why = c.change.Note.At, c.change.Note.By, c.change.Note.Why
	out := &tapsealv1.Effect{}
	change := func(rules *state.Rules) error {
		out.Before = stopState(find(rules, &stop))
		if !stops {
			out.After = stopState(nil)
			return rules.Lift(stop)
		}
		if err := rules.Add(stop); err != nil {
			out.After = out.GetBefore()
			return err
		}
		out.After = stopState(&stop)
		return nil
	}
	rules, err := a.rulesNow(ctx)
	if err == nil {
		err = change(rules) // of a copy
	}
	switch {
	case errors.Is(err, state.ErrStopExists):
		return out, nil
	case err != nil:
		return nil, stateError(err)
	case c.dry:
		return out, nil
	}
	err = a.e.actOnState(ctx, r, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, stateWithin)
		defer cancel()
		return "in force on every instance within a second", a.e.store.ChangeRules(ctx, change)
	})
	if err != nil {
		return nil, a.actFailed(r, err)
	}
	out.Applied = true
	return out, nil
}

var errOnlyLooked = errors.New("nothing to change")

// rulesNow are the rules as they are in the state now: those that the store keeps
// may be half a second old, long enough to take a stop for one that was just lifted.
func (a *administration) rulesNow(ctx context.Context) (*state.Rules, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWithin)
	defer cancel()
	var now *state.Rules
	err := a.e.store.ChangeRules(ctx, func(r *state.Rules) error {
		now = r
		return errOnlyLooked
	})
	if !errors.Is(err, errOnlyLooked) {
		return nil, err
	}
	return now, nil
}

// actFailed logs and answers an act on the state that did not go through, or
// whose outcome is not on record.
func (a *administration) actFailed(r audit.Record, err error) error {
	a.e.log.Error("an act on token state", "action", r.Action.String(), "done", wasDone(err), "error", err.Error())
	if errors.Is(err, state.ErrUnavailable) && !errors.Is(err, errActNotRecorded) {
		return status.Error(codes.Unavailable, err.Error()+": whether anything changed is not known; do it again, twice does no harm")
	}
	return stateError(err)
}

// stateError is the status of what the state could not or would not do. It says
// what to do next.
func stateError(err error) error {
	const again = ": nothing was done; do it again"
	switch {
	case errors.Is(err, errOutcomeNotRecorded):
		return status.Error(codes.Internal, err.Error())
	case errors.Is(err, errActNotRecorded):
		return status.Error(codes.Unavailable, err.Error())
	case errors.Is(err, state.ErrNoSuchStop):
		return status.Error(codes.NotFound, err.Error()+": tapseal token stops lists them")
	case errors.Is(err, state.ErrTokenDeleted), errors.Is(err, state.ErrTooManyStops):
		return status.Error(codes.FailedPrecondition, err.Error())
	case errors.Is(err, store.ErrSubject), errors.Is(err, state.ErrTokenMoved):
		return status.Error(codes.FailedPrecondition, err.Error()+": give the workers of this instance the current subject key")
	case errors.Is(err, store.ErrDamaged):
		return status.Error(codes.DataLoss, err.Error())
	case errors.Is(err, state.ErrRegressed):
		return status.Error(codes.FailedPrecondition, err.Error()+": an operator has to accept it first")
	case errors.Is(err, state.ErrUnavailable), errors.Is(err, state.ErrBroken), errors.Is(err, store.ErrBusy),
		errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.Error(codes.Unavailable, err.Error()+again)
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}
