package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/verdict"
	"github.com/tapseal/tapseal/keys"
)

const panicPlaces, panicLimit = 2, 10

// newPanicking returns an engine with two places and a caller who may have ten
// taps in flight. There is no journal: recording a decision panics.
func newPanicking(t *testing.T, rules verdict.Rules) (*engine, *caller) {
	t.Helper()
	r := &rig{tb: t, dir: t.TempDir()}
	r.writePolicy(testPeople(), wideLimits, fmt.Sprintf("{taps_per_second: 1000000, burst: 1000000, taps_in_flight: %d, streams: 1}", panicLimit))
	live := authz.NewLive()
	if _, err := live.Load(r.path("policy.yaml")); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(io.Discard, nil))
	e := newEngine(rules, nil, nil, nil, observability.NewMetrics("test"), log)
	e.gate, e.tapsInStream, e.patience = newGate(panicPlaces, 0), 100, time.Second
	id := &identity{uri: callerURI, ends: time.Now().Add(time.Hour), changes: new(atomic.Uint64)}
	id.lookedAt.Store(time.Now().Add(time.Hour).UnixNano())
	return e, &caller{id: id, view: live.Caller(callerURI), method: authz.MethodVerifyCryptogram}
}

// panickingRules panic while a tap is prepared, or when its decision is recorded.
func panickingRules(t *testing.T) map[string]verdict.Rules {
	t.Helper()
	assignments, err := keys.ParseAssignments([]byte(testIssuers()["visa"].assignments()))
	if err != nil {
		t.Fatal(err)
	}
	pool, err := hsm.NewPool(hsm.Options{SocketDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return map[string]verdict.Rules{
		"preparing": {DefaultTimeout: time.Second},
		"recording": {Assignments: assignments, Keys: pool, DefaultTimeout: time.Second},
	}
}

// panics reports whether do does.
func panics(do func()) (did bool) {
	defer func() { did = recover() != nil }()
	do()
	return false
}

// wantNothingInFlight asks for every tap that the caller may have in flight.
func wantNothingInFlight(t *testing.T, e *engine, c *caller) {
	t.Helper()
	if n := e.gate.inFlight(); n != 0 {
		t.Errorf("%d places are taken", n)
	}
	who, err := c.principal(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	a := who.Admit(time.Now(), panicLimit)
	if a.Taps != panicLimit {
		t.Errorf("%d taps stay in flight", panicLimit-a.Taps)
	}
	who.Release(a.Taps)
}

func TestPanicInStreamLeaksNothing(t *testing.T) {
	for name, rules := range panickingRules(t) {
		t.Run(name, func(t *testing.T) {
			e, c := newPanicking(t, rules)
			s := newStream(context.Background(), e, c)
			var taps []*tapsealv1.Tap
			for i := range panicLimit {
				taps = append(taps, visaCase().tap(t, fmt.Sprintf("p%d", i)))
			}
			for range 3 { // were one left each time, the caller would run dry
				if !panics(func() { _ = s.submit(taps, &intake{}) }) {
					t.Fatal("no panic")
				}
				clear(s.open)
				wantNothingInFlight(t, e, c)
			}
		})
	}
}

// TestPanicAtTheGateLeaksNothing: the caller's limits admitted the taps, and
// asking the gate panics.
func TestPanicAtTheGateLeaksNothing(t *testing.T) {
	e, c := newPanicking(t, verdict.Rules{})
	s := newStream(context.Background(), e, c)
	gate := e.gate
	e.gate = nil
	if !panics(func() { _ = s.submit([]*tapsealv1.Tap{visaCase().tap(t, "p")}, &intake{}) }) {
		t.Fatal("no panic")
	}
	e.gate = gate
	wantNothingInFlight(t, e, c)
}

// TestOverloadLeaksNothing: the gate stays shut for all the caller's patience.
func TestOverloadLeaksNothing(t *testing.T) {
	e, c := newPanicking(t, verdict.Rules{})
	e.patience = time.Millisecond
	s := newStream(context.Background(), e, c)
	held := e.gate.take(context.Background(), panicPlaces, 0)
	if err := s.submit([]*tapsealv1.Tap{visaCase().tap(t, "a"), visaCase().tap(t, "b")}, &intake{}); err != nil {
		t.Fatal(err)
	}
	e.gate.release(held)
	wantNothingInFlight(t, e, c)
}

func TestPanicInUnaryLeaksNothing(t *testing.T) {
	for name, rules := range panickingRules(t) {
		t.Run(name, func(t *testing.T) {
			e, c := newPanicking(t, rules)
			ctx := context.WithValue(context.Background(), callerKey{}, c)
			for range 3 {
				if !panics(func() {
					_ = (&service{e: e}).one(ctx, visaCase().tap(t, "p"), audit.MethodVerify, cryptogram.Response{}, func(*tap) {})
				}) {
					t.Fatal("no panic")
				}
				wantNothingInFlight(t, e, c)
			}
		})
	}
}
