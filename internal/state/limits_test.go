package state_test

import (
	"math"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// wrong is a mismatch of a request of its own.
func wrong(n uint32, options ...option) state.Event {
	return tap(1000, append([]option{request(0x10000 + n), mismatched}, options...)...)
}

func fails(t *testing.T, r *state.Record, n, from int, options ...option) {
	t.Helper()
	for i := range n {
		if o := decide(t, r, wrong(uint32(from+i), options...)); o.Result != state.Reject || !o.Counted {
			t.Fatalf("failure %d: %+v", i, o)
		}
	}
}

// Five failures in a row, then 30 s, and twice as long for each further one.
func TestBackoff(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1)
	fails(t, r, 5, 0)
	now, wait := int64(0), int64(30)
	for i := range 20 {
		for _, before := range []int64{0, wait - 1} {
			for _, e := range []state.Event{tap(1000, at(now+before)), wrong(100, at(now+before))} {
				o := decide(t, r, e)
				if o.Result != state.Defer || int64(o.RetryAfterSec) != wait-before || o.Counted {
					t.Fatalf("failure %d, %d s later: %+v, want %d s", 5+i, before, o, wait-before)
				}
			}
		}
		// Asking while one has to wait does not make it longer.
		now += wait
		fails(t, r, 1, 200+i, at(now))
		wait = min(2*wait, state.MaxBackoffSec)
	}
	if o := decide(t, r, tap(1000, at(now+wait))); o.Result != state.Accept || len(r.Failing) != 0 || len(r.Failed) != 0 {
		t.Fatalf("after the wait: %+v, %+v", o, r)
	}
	fails(t, r, 4, 300, at(now+wait))
	if o := decide(t, r, tap(1001, at(now+wait))); o.Result != state.Accept {
		t.Fatalf("four failures after an accepted one: %+v", o)
	}
}

func TestFailuresForgotten(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1)
	fails(t, r, 5, 0)
	fails(t, r, 1, 10, at(86_401))
	if r.Failing[0].Count != 1 {
		t.Errorf("after a day: %+v", r.Failing)
	}
	fails(t, r, 1, 11, at(86_401+86_400))
	if r.Failing[0].Count != 2 {
		t.Errorf("within a day: %+v", r.Failing)
	}
}

// Clocks of daemons differ, and one may once have been wrong by years.
func TestFailuresWithOtherClocks(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1)
	for i := range 5 {
		fails(t, r, 1, i, at(int64(-i%2))) // every other one a second earlier
	}
	if r.Failing[0].Count != 5 || r.Failing[0].Last != noon {
		t.Fatalf("%+v", r.Failing)
	}
	if o := decide(t, r, tap(1000, at(-1))); o.Result != state.Defer || o.RetryAfterSec != 31 {
		t.Errorf("a second earlier: %+v", o)
	}
	const years = 300_000_000
	r = accepted(t, 1)
	fails(t, r, 5, 0, at(years))
	if o := decide(t, r, tap(1000)); o.Result != state.Accept {
		t.Errorf("years before the last failure: %+v", o)
	}
	r = accepted(t, 1)
	fails(t, r, 4, 0, at(years))
	fails(t, r, 1, 4)
	if o := decide(t, r, tap(1000)); o.Result != state.Defer || o.RetryAfterSec != 30 {
		t.Errorf("the last failure is today's: %+v", o)
	}
}

// A failure counts once for each request, of the last MaxFailed.
func TestFailureOnce(t *testing.T) {
	t.Parallel()
	r := &state.Record{}
	for i := range 3 {
		o := decide(t, r, wrong(1))
		if o.Counted != (i == 0) || o.Result != state.Reject || o.Freshness != state.NotChecked {
			t.Fatalf("%d: %+v", i, o)
		}
	}
	old := wrong(1)
	old.Requests[0], old.Requests[1] = state.Digest{5}, old.Requests[0]
	if o := decide(t, r, old); o.Counted {
		t.Errorf("under the previous subject key: %+v", o)
	}
	if r.Failing[0].Count != 1 {
		t.Errorf("%+v", r.Failing)
	}
	fails(t, r, state.MaxFailed-1, 10)
	if o := decide(t, r, wrong(1, policy(func(p *state.Policy) { p.Limits = state.Limits{} }))); o.Counted {
		t.Errorf("the fourth last one: %+v", o)
	}
}

// One caller's failures make no other one wait, not of the same token, whichever
// way it tries. What is remembered of callers is bounded.
func TestCallersApart(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1)
	for who := range uint32(10) {
		fails(t, r, 5, int(who)*100, caller(100+who))
		if len(r.Failing) > state.MaxFailing || len(r.Failed) > state.MaxFailed {
			t.Fatalf("%+v", r)
		}
	}
	if o := decide(t, r, tap(1000, caller(109))); o.Result != state.Defer {
		t.Errorf("the one that failed: %+v", o)
	}
	if o := decide(t, r, tap(1000, caller(5))); o.Result != state.Accept {
		t.Errorf("another one: %+v", o)
	}
	if o := decide(t, r, tap(1001, caller(109))); o.Result != state.Defer {
		t.Errorf("an accepted tap of another caller forgave: %+v", o)
	}
}

// Where the limits defer an attempt, nobody learns whether it was right, and
// nothing changes.
func TestNoOracle(t *testing.T) {
	t.Parallel()
	stopped := state.Change{Status: state.Suspended}
	overCaller := func(e *state.Event) { e.CallerFailures = 10_000 }
	overBIN := func(e *state.Event) { e.BINFailures = 1000 }
	for name, options := range map[string][]option{"token": nil, "caller": {overCaller}, "BIN": {overBIN}, "both": {overCaller, overBIN}} {
		for _, p := range []state.Purpose{state.Authorise, state.Advice, state.Respond} {
			for _, c := range []state.Change{{}, stopped} {
				for _, atc := range []uint16{1, 2, 500, 5000} { // replayed, late, fresh, a jump
					r := accepted(t, 1, 3, 4, 5, 6)
					change(t, r, c)
					if name == "token" {
						fails(t, r, 5, 0)
					}
					before := string(r.Append(nil))
					with := append([]option{request(77), purpose(p), ofTypeIf(p), at(10)}, options...)
					right, wrong := tap(atc, with...), tap(atc, append(with, mismatched)...)
					o1, changed1 := state.Next(r, &right)
					o2, changed2 := state.Next(r, &wrong)
					if o1 != o2 || changed1 || changed2 || string(r.Append(nil)) != before || o1.Freshness != state.NotChecked || o1.AcceptedBefore {
						t.Errorf("%s, purpose %d, ATC %d: %+v for a right one, %+v for a wrong one", name, p, atc, o1, o2)
					}
					switch {
					case c.Status == 0 && (o1.Result != state.Defer || o1.RetryAfterSec == 0):
						t.Errorf("%s: %+v", name, o1)
					case c.Status != 0 && (o1.Result != state.Reject || o1.RetryAfterSec != 0 || len(o1.Reasons()) != 2 ||
						o1.Reasons()[0] != state.TokenSuspended || o1.Reasons()[1] != state.AttemptsLimited):
						t.Errorf("%s: %+v", name, o1)
					}
				}
			}
		}
	}
}

func ofTypeIf(p state.Purpose) option {
	return func(e *state.Event) {
		if p == state.Advice {
			e.Type = state.TypeTC
		}
	}
}

// A repeat of an accepted request proves nothing new, and has its answer.
func TestRepeatIsNotLimited(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1)
	fails(t, r, 5, 0)
	over := func(e *state.Event) { e.CallerFailures, e.BINFailures = math.MaxUint64, math.MaxUint64 }
	want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(1, over)))
}

func TestPeriodLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		caller, bin uint64
		at          int64
		change      func(p *state.Policy)
		after       uint32 // 0: not limited
	}{
		"none":               {0, 0, 0, func(*state.Policy) {}, 0},
		"one less":           {9_999, 999, 0, func(*state.Policy) {}, 0},
		"caller":             {10_000, 0, 0, func(*state.Policy) {}, 60},
		"caller, later":      {10_001, 0, 59, func(*state.Policy) {}, 1},
		"BIN":                {0, 1000, 61, func(*state.Policy) {}, 59},
		"no caller limit":    {math.MaxUint64, 0, 0, func(p *state.Policy) { p.Limits.CallerFailures = 0 }, 0},
		"no BIN limit":       {0, math.MaxUint64, 0, func(p *state.Policy) { p.Limits.BINFailures = 0 }, 0},
		"no period":          {math.MaxUint64, math.MaxUint64, 0, func(p *state.Policy) { p.Limits.PeriodSec = 0 }, 0},
		"more than 32 bits":  {1 << 32, 0, 30, func(*state.Policy) {}, 30},
		"a period of a day":  {10_000, 0, 0, func(p *state.Policy) { p.Limits.PeriodSec = 86_400 }, 86_400 - noon%86_400},
		"before anybody was": {10_000, 0, -noon, func(*state.Policy) {}, 60},
	} {
		counts := func(e *state.Event) { e.CallerFailures, e.BINFailures = c.caller, c.bin }
		o := decide(t, &state.Record{}, tap(5, at(c.at), policy(c.change), counts))
		if (o.Result == state.Defer) != (c.after != 0) || o.RetryAfterSec != c.after {
			t.Errorf("%s: %+v, want %d s", name, o, c.after)
		}
	}
}

func velocity(rule state.VelocityRule, how state.Reaction) option {
	return policy(func(p *state.Policy) { p.Velocity, p.OnVelocity = rule, how })
}

func TestVelocity(t *testing.T) {
	t.Parallel()
	rule := state.VelocityRule{WindowSec: 60, Count: 3, Amount: 2500, Currency: 0x0978}
	count := state.VelocityRule{WindowSec: 60, Count: 2}
	foreign := func(e *state.Event) { e.Currency = 0x0840 }
	type step struct {
		e    state.Event
		want want
	}
	ok := want{state.Accept, state.Fresh, false, nil}
	no := func(r ...state.Reason) want { return want{state.Reject, state.Fresh, false, r} }
	amount := func(n uint64) option { return func(e *state.Event) { e.Amount = n } }
	for name, steps := range map[string][]step{
		"count": {
			{tap(1, velocity(count, state.Refuse)), ok},
			{tap(2, velocity(count, state.Refuse), at(59)), ok},
			{tap(3, velocity(count, state.Refuse), at(59)), no(state.VelocityCount)},
			{tap(3, velocity(count, 0), at(59)), no(state.VelocityCount)},
			{tap(2, velocity(count, state.Refuse), at(59)), want{state.Accept, state.Repeated, true, nil}},
			{tap(3, velocity(count, state.Refuse), at(60)), ok},
			{tap(4, velocity(count, state.Refuse), at(119)), ok},
			{tap(5, velocity(count, state.Refuse), at(119)), no(state.VelocityCount)},
		},
		"amount": {
			{tap(1, velocity(rule, state.Refuse)), ok},
			{tap(2, velocity(rule, state.Refuse)), ok},
			{tap(3, velocity(rule, state.Refuse)), no(state.VelocityAmount)},
			{tap(3, velocity(rule, state.Refuse), foreign), ok},
			{tap(4, velocity(rule, state.Refuse), foreign), no(state.VelocityCount)},
			{tap(4, velocity(rule, state.Refuse)), no(state.VelocityCount, state.VelocityAmount)},
		},
		"noted": {
			{tap(1, velocity(rule, state.AcceptWithReason), amount(2501)), want{state.Accept, state.Fresh, false, reasons(state.VelocityAmount)}},
			{tap(2, velocity(rule, state.AcceptWithReason), amount(0)), want{state.Accept, state.Fresh, false, reasons(state.VelocityAmount)}},
		},
		"amounts without end": {
			{tap(1, velocity(rule, state.AcceptWithReason), amount(math.MaxUint64)), want{state.Accept, state.Fresh, false, reasons(state.VelocityAmount)}},
			{tap(2, velocity(rule, state.Refuse), amount(math.MaxUint64)), no(state.VelocityAmount)},
		},
		"other clocks": {
			{tap(1, velocity(count, state.Refuse)), ok},
			{tap(2, velocity(count, state.Refuse), at(-30)), ok},
			{tap(3, velocity(count, state.Refuse), at(-30)), no(state.VelocityCount)},
			{tap(3, velocity(count, state.Refuse), at(30)), no(state.VelocityCount)},
			{tap(3, velocity(count, state.Refuse), at(-60)), ok},
		},
		"only what was accepted": {
			{tap(1, velocity(count, state.Refuse)), ok},
			{tap(1, velocity(count, state.Refuse), request(5)), want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}},
			{tap(2, velocity(count, state.Refuse), ofType(state.TypeTC)), ok},
			{tap(2, velocity(count, state.Refuse)), ok},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &state.Record{}
			for i, s := range steps {
				t.Log(i)
				s.want.check(t, decide(t, r, s.e))
			}
		})
	}
	// The most that can be counted, and the most that can be added.
	most := velocity(state.VelocityRule{WindowSec: 60, Count: math.MaxUint16, Amount: math.MaxUint64 - 1, Currency: 0x0978}, state.Refuse)
	r := &state.Record{Status: state.Active, Velocity: state.Velocity{Start: noon, Count: math.MaxUint16 - 1, Amount: 5}}
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1, most)))
	want{state.Reject, state.Fresh, false, reasons(state.VelocityCount)}.check(t, decide(t, r, tap(2, most)))
	r.Velocity.Amount = math.MaxUint64 - 5
	if decide(t, r, tap(2, velocity(state.VelocityRule{WindowSec: 60, Amount: 1, Currency: 0x0978}, state.AcceptWithReason))); r.Velocity.Amount < math.MaxUint64-1_000_000_000_000 {
		t.Errorf("the sum wrapped: %d", r.Velocity.Amount)
	}
	// Without a rule nothing is kept.
	if decide(t, r, tap(3)); r.Velocity != (state.Velocity{}) {
		t.Errorf("%+v", r.Velocity)
	}
}
