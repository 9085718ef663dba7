package server

import (
	"context"
	"errors"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/verdict"
)

// These tests hold a tap back between the HSM's answer and the end of the
// commit, as a disk that hangs does.

func lateEngine() *engine {
	e := newEngine(verdict.Rules{}, nil, nil, nil, observability.NewMetrics("test"), nil)
	e.gate, e.tapsInStream = newGate(4, 0), 4
	return e
}

// heldTap is a tap that matched and waits for its record.
func heldTap(t *testing.T, e *engine, id string) *tap {
	t.Helper()
	profile, ok := cryptogram.ProfileByName("visa-cvn18")
	if !ok || !e.gate.try() {
		t.Fatal("no profile or no place")
	}
	held := e.get()
	held.requestID, held.method, held.started = id, audit.MethodVerify, time.Now()
	held.Resolution.Profile, held.Resolution.KeySet, held.Resolution.KeyVersion = profile, "test", 1
	held.NeedsHSM, held.Call.Answer = true, hsm.Matched
	held.AnswerBy = time.Now()
	held.Op.Outcome = state.Outcome{Result: state.Accept, Freshness: state.Fresh}
	held.stage.Store(stageJournal)
	return held
}

// release lets the held commit end.
func release(e *engine, to audience, held *tap, err error) {
	c := newCommit(e)
	c.taps, c.to = append(c.taps, held), to
	held.Settle()
	c.finish(err)
}

func wantLate(t *testing.T, got *tap) {
	t.Helper()
	var v tapsealv1.Verification
	writeVerification(&v, got)
	if err := checkAnswer(&v, tapsealv1.Verdict_VERDICT_UNKNOWN, tapsealv1.Reason_REASON_AUDIT_UNAVAILABLE); err != nil {
		t.Error(err)
	}
	if len(got.ARPC()) != 0 {
		t.Error("a late answer has a response cryptogram")
	}
}

func TestUnaryIsNotHeldUpByTheJournal(t *testing.T) {
	e := lateEngine()
	held := heldTap(t, e, "late")
	if e.await(held) {
		t.Fatal("answered without a record")
	}
	wantLate(t, e.unanswered(held))
	release(e, (*unaryAudience)(e), held, nil) // nobody listens any more
	if n := e.gate.inFlight(); n != 0 {
		t.Errorf("%d places taken", n)
	}
}

func TestStreamIsNotHeldUpByTheJournal(t *testing.T) {
	for name, commitError := range map[string]error{"recorded": nil, "not recorded": errors.New("disk")} {
		t.Run(name, func(t *testing.T) {
			e := lateEngine()
			s := newStream(context.Background(), e, &caller{})
			held := heldTap(t, e, "late")
			s.enter(&intake{fresh: []*tap{held}})
			s.sweepLate(time.Now())
			taps, _ := s.takeReady()
			if len(taps) != 1 || taps[0].requestID != "late" {
				t.Fatalf("%d late answers", len(taps))
			}
			wantLate(t, taps[0])
			release(e, s, held, commitError)
			if again, _ := s.takeReady(); len(again) != 0 {
				t.Error("the tap was answered twice")
			}
			if n := e.gate.inFlight(); n != 0 {
				t.Errorf("%d places taken", n)
			}
		})
	}
}
