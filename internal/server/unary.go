package server

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/state/store"
	"github.com/tapseal/tapseal/internal/verdict"
)

// service is tapseal.v1.CryptogramService.
type service struct {
	tapsealv1.UnimplementedCryptogramServiceServer
	e *engine
}

// VerifyCryptogram verifies one tap.
func (s *service) VerifyCryptogram(ctx context.Context, m *tapsealv1.VerifyCryptogramRequest) (*tapsealv1.VerifyCryptogramResponse, error) {
	if err := decoded(m); err != nil {
		return nil, err
	}
	v := &tapsealv1.Verification{}
	err := s.one(ctx, m.GetTap(), audit.MethodVerify, cryptogram.Response{}, func(t *tap) { writeVerification(v, t) })
	if err != nil {
		return nil, err
	}
	return &tapsealv1.VerifyCryptogramResponse{Verification: v}, nil
}

// Respond verifies one tap and makes its response cryptogram in the same plan.
func (s *service) Respond(ctx context.Context, m *tapsealv1.RespondRequest) (*tapsealv1.RespondResponse, error) {
	if err := decoded(m); err != nil {
		return nil, err
	}
	r, err := readDecision(m)
	if err != nil {
		return nil, invalid(err)
	}
	out := &tapsealv1.RespondResponse{Verification: &tapsealv1.Verification{}}
	err = s.one(ctx, m.GetTap(), audit.MethodRespond, r, func(t *tap) {
		writeVerification(out.Verification, t)
		if arpc := t.ARPC(); len(arpc) > 0 {
			out.Arpc = append([]byte(nil), arpc...)
			out.IssuerAuthenticationData = issuerAuthenticationData(arpc, &r)
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// one takes a tap through to its decision and lets answer read it.
func (s *service) one(ctx context.Context, m *tapsealv1.Tap, method audit.Method, r cryptogram.Response, answer func(*tap)) error {
	e, now := s.e, time.Now()
	c, who, err := e.enter(ctx, now)
	if err != nil {
		e.metrics.Refused(status.Code(err))
		return err
	}
	submitted := false
	defer func() { // also when Prepare or submitOne panics
		if !submitted {
			e.gate.release(1)
			who.Release(1)
		}
	}()
	t := e.get()
	t.caller, t.who, t.method, t.started, t.entered = c.id.uri, who, method, now, now
	if err := e.prepare(ctx, m, r, t, c.method); err != nil {
		e.put(t)
		e.metrics.Refused(status.Code(err))
		return err
	}
	e.submitOne(t)
	submitted = true // the pool or the journal has it, and releases it
	if e.await(t) {
		answer(t)
		e.put(t)
		return nil
	}
	answer(e.unanswered(t))
	return nil
}

// enter asks policy, the caller's limits and the gate for one tap.
func (e *engine) enter(ctx context.Context, now time.Time) (*caller, *authz.Principal, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, nil, err
	}
	who, err := c.principal(now)
	if err != nil {
		return nil, nil, err
	}
	if a := who.Admit(now, 1); a.Taps == 0 {
		e.metrics.Limited(a.By, 1)
		return nil, nil, limited(a).status()
	}
	if !e.gate.try() {
		who.Release(1)
		return nil, nil, overloaded(e.patience).status()
	}
	return c, who, nil
}

// prepare parses the tap and asks the policy for its key set. The error is a
// status.
func (e *engine) prepare(ctx context.Context, m *tapsealv1.Tap, r cryptogram.Response, t *tap, method authz.MethodID) error {
	var in reading
	vt, err := in.read(m)
	if err != nil {
		return invalid(err)
	}
	vt.Response, vt.Caller = r, t.who.Name()
	t.requestID = vt.RequestID
	latest, _ := ctx.Deadline()
	if err := e.rules.Prepare(vt, t.started, latest, &t.Case); err != nil {
		return invalid(err)
	}
	if !t.who.Allows(method, t.Resolution.KeySet) {
		return errKeySet.status()
	}
	return nil
}

func (e *engine) submitOne(t *tap) {
	if !t.NeedsHSM {
		e.decided([]*tap{t}, (*unaryAudience)(e))
		return
	}
	t.Call.Sink, t.Op.Sink = (*unaryAudience)(e), (*unaryAudience)(e)
	e.pool.Submit(&t.Call)
}

// await waits for the decision and reports whether it came in time. If not,
// the tap must not be touched any more, but for what Prepare set.
func (e *engine) await(t *tap) bool {
	wait := time.Until(t.AnswerBy)
	if t.timer == nil {
		t.timer = time.NewTimer(wait)
	} else {
		t.timer.Reset(wait)
	}
	defer t.timer.Stop()
	select {
	case <-t.answer:
		return true
	case <-t.timer.C:
		if t.state.CompareAndSwap(tapWaiting, tapAbandoned) {
			return false
		}
		<-t.answer // it came at this moment
		return true
	}
}

// unanswered stands in for a tap whose decision is not there in time. Nothing
// is known of the cryptogram, or nobody can prove what was known.
func (e *engine) unanswered(t *tap) *tap {
	u := newTap()
	u.requestID, u.Resolution = t.requestID, t.Resolution
	switch t.stage.Load() {
	case stageHSM:
		u.Decision = verdict.Decide(hsm.DeadlineExceeded)
	case stageState:
		u.Decision = verdict.Decide(t.Call.Answer)
	default:
		// Only UNKNOWN may leave without its record.
		u.Decision = verdict.NotRecorded()
	}
	if u.Decision = u.Decision.Final(); u.Decision.Verdict != verdict.Unknown {
		u.Decision = verdict.NotRecorded()
	}
	e.metrics.Late()
	return u
}

// unaryAudience is the engine as the sink and audience of all unary calls, so
// that calls of many callers are recorded together.
type unaryAudience engine

// Completed implements hsm.Sink.
func (u *unaryAudience) Completed(calls []*hsm.Call) { (*engine)(u).completed(calls, u) }

// Settled implements store.Sink.
func (u *unaryAudience) Settled(ops []*store.Op) { (*engine)(u).settled(ops, u) }

func (u *unaryAudience) answered(taps []*tap) {
	for _, t := range taps {
		if t.state.CompareAndSwap(tapWaiting, tapAnswered) {
			t.answer <- struct{}{}
		}
	}
}

// invalid is the status of a malformed request. The text names a tag or field
// and holds no value.
func invalid(err error) error { return status.Error(codes.InvalidArgument, err.Error()) }
