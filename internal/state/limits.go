package state

import "math"

// count reports whether failures are counted at all.
func (l *Limits) count() bool {
	return l.TokenFailures != 0 || l.PeriodSec != 0 && (l.CallerFailures != 0 || l.BINFailures != 0)
}

// waits says how many seconds the limits make this attempt wait, 0 if they do
// not. It does not depend on whether the cryptogram matched.
func (n *next) waits() uint32 {
	l := &n.e.Policy.Limits
	if after := n.r.backoff(n.e, l); after > 0 {
		return after
	}
	if l.PeriodSec == 0 {
		return 0
	}
	over := l.CallerFailures != 0 && n.e.CallerFailures >= uint64(l.CallerFailures) ||
		l.BINFailures != 0 && n.e.BINFailures >= uint64(l.BINFailures)
	if !over {
		return 0
	}
	return l.PeriodSec - uint32(n.e.Now%int64(l.PeriodSec)) // the period's end
}

// backoff is what is left of the caller's back-off with this token.
func (r *Record) backoff(e *Event, l *Limits) uint32 {
	if l.TokenFailures == 0 {
		return 0
	}
	for i := range r.Failing {
		f := &r.Failing[i]
		if f.Caller != e.Caller || f.Count < l.TokenFailures {
			continue
		}
		wait := min(uint64(l.BackoffSec)<<min(f.Count-l.TokenFailures, 20), MaxBackoffSec)
		if until := int64(f.Last) + int64(wait); e.Now < until && !f.implausible(e.Now) {
			return uint32(until - e.Now)
		}
	}
	return 0
}

// implausible reports whether the last failure is further ahead of now than clocks
// of daemons differ: one of them was wrong, and nobody has to wait for that day.
func (f *Failing) implausible(now int64) bool { return int64(f.Last) > now+MaxBackoffSec }

// mismatch counts a wrong cryptogram, once for each request.
func (n *next) mismatch() bool {
	tokenReasons := n.o
	n.o.n = 0
	n.refuse(CryptogramMismatch)
	for _, r := range tokenReasons.Reasons() {
		n.o.add(r)
	}
	n.o.Result = Reject
	if !n.e.Policy.Limits.count() {
		return false // nobody asks how many there were
	}
	for i := range n.r.Failed {
		if n.e.is(n.r.Failed[i]) {
			return false
		}
	}
	n.o.Counted = true
	n.r.fail(n.e)
	return true
}

// fail puts a mismatch on record. A record that only has failures does not make
// a token known.
func (r *Record) fail(e *Event) {
	if r.Status == 0 {
		r.Status = Noted
	}
	if len(r.Failed) == MaxFailed {
		r.Failed = r.Failed[:copy(r.Failed, r.Failed[1:])]
	}
	r.Failed = append(r.Failed, e.Requests[0])
	now := uint32(e.Now)
	for i := range r.Failing {
		f := &r.Failing[i]
		if f.Caller != e.Caller {
			continue
		}
		// Clocks of daemons differ: a failure a little before the last one counts
		// like any other, and does not bring the end of the wait nearer.
		if e.Now-int64(f.Last) > forgetAfterSec {
			f.Count = 0
		}
		if f.Count < 0xFF {
			f.Count++
		}
		if now > f.Last || f.implausible(e.Now) {
			f.Last = now
		}
		return
	}
	if len(r.Failing) == MaxFailing {
		r.dropOldestFailing()
	}
	r.Failing = append(r.Failing, Failing{Caller: e.Caller, Count: 1, Last: now})
}

func (r *Record) dropOldestFailing() {
	oldest := 0
	for i := range r.Failing {
		if r.Failing[i].Last < r.Failing[oldest].Last {
			oldest = i
		}
	}
	r.Failing = append(r.Failing[:oldest], r.Failing[oldest+1:]...)
}

// forgive forgets a caller's failures after a cryptogram of this token was
// accepted from it.
func (r *Record) forgive(caller uint32) {
	for i := range r.Failing {
		if r.Failing[i].Caller == caller {
			r.Failing = append(r.Failing[:i], r.Failing[i+1:]...)
			break
		}
	}
	if len(r.Failing) == 0 {
		r.Failed = r.Failed[:0]
	}
}

// velocity asks whether one more tap fits the rule.
func (n *next) velocity() {
	rule := &n.e.Policy.Velocity
	if rule.WindowSec == 0 {
		return
	}
	before, after := n.e.velocityBefore(n.r.Velocity), n.e.velocityAfter(n.r.Velocity)
	if rule.Count != 0 && before.Count >= rule.Count {
		n.react(VelocityCount, n.e.Policy.OnVelocity)
	}
	if rule.Amount != 0 && after.Amount > rule.Amount {
		n.react(VelocityAmount, n.e.Policy.OnVelocity)
	}
}

// velocityBefore is v if its window still runs, else an empty one that begins
// now. A start that is ahead is another daemon's clock, unless by a whole window.
func (e *Event) velocityBefore(v Velocity) Velocity {
	window := int64(e.Policy.Velocity.WindowSec)
	if since := e.Now - int64(v.Start); v.Count == 0 || since >= window || since <= -window {
		return Velocity{Start: uint32(e.Now)}
	}
	return v
}

// velocityAfter is v with this tap in it.
func (e *Event) velocityAfter(v Velocity) Velocity {
	rule := &e.Policy.Velocity
	if rule.WindowSec == 0 {
		return Velocity{}
	}
	v = e.velocityBefore(v)
	if v.Count < 0xFFFF {
		v.Count++
	}
	if rule.Amount != 0 && e.Currency == rule.Currency {
		v.Amount = min(v.Amount, math.MaxUint64-maxAmount) + min(e.Amount, maxAmount)
	}
	return v
}
