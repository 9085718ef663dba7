package authz

import (
	"math"
	"sync/atomic"
	"time"
)

// Limits bound what one caller can ask for. Zero is nothing.
type Limits struct {
	TapsPerSecond uint32
	Burst         uint32 // taps that may come at once after a pause
	TapsInFlight  uint32
	Streams       uint32 // at one time
}

// Bounds of the limits, so that the arithmetic of a bucket cannot overflow.
const (
	maxRate  = 10_000_000
	maxCount = 10_000_000
)

// RetryWhenFull is how long a caller should wait that has all its taps in
// flight, or all its streams open: about the time that a tap takes.
const RetryWhenFull = 20 * time.Millisecond

// A LimitKind says which limit refused.
type LimitKind uint8

// The limits of a caller.
const (
	LimitNone     LimitKind = 0
	LimitRate     LimitKind = 1
	LimitInFlight LimitKind = 2
	LimitStreams  LimitKind = 3
)

// String is the limit's name in metrics.
func (k LimitKind) String() string {
	switch k {
	case LimitRate:
		return "rate"
	case LimitInFlight:
		return "in_flight"
	case LimitStreams:
		return "streams"
	default:
		return "none"
	}
}

// An Admission says how many of the taps may go on. The first Taps of them may;
// for each of those Release is owed. The others are refused by By, and can be
// repeated after RetryAfter.
type Admission struct {
	Taps       int
	By         LimitKind // LimitNone if all may go on
	RetryAfter time.Duration
}

// An account is what a principal has used. It outlives a policy: a reload hands
// it to the principal's successor, so that reloading gives nobody a new burst.
// It has no lock: every method may be called from any goroutine.
type account struct {
	start    time.Time    // the bucket's clock begins here
	full     atomic.Int64 // when the bucket is full again, in ticks after start (GCRA's theoretical arrival time)
	inFlight atomic.Int64 // taps
	streams  atomic.Int64
}

// The bucket counts time in sixteenths of a nanosecond, so that rounding one
// tap's time up costs less than 0.1 % at the highest rate. Clock readings are cut
// to eight years from the start, so that no difference of two overflows.
const (
	ticksPerNano = 16
	maxClock     = 8 * 365 * 24 * time.Hour
	longAgo      = math.MinInt64 / 2 // before every reading: the bucket begins full
)

func newAccount(start time.Time) *account {
	a := &account{start: start}
	a.full.Store(longAgo)
	return a
}

// ticks converts a clock reading. Both times carry the monotonic clock, which
// time.Time's Sub uses.
func (a *account) ticks(now time.Time) int64 {
	return int64(min(max(now.Sub(a.start), -maxClock), maxClock)) * ticksPerNano
}

// perTap is the time that one tap takes from the bucket, rounded up: the
// bucket never admits more than the rate.
func (l *Limits) perTap() int64 {
	const second = int64(time.Second) * ticksPerNano
	r := int64(l.TapsPerSecond)
	return (second + r - 1) / r
}

// take takes up to n taps from the bucket. Without all n, retry is when one
// more will be there.
func (a *account) take(now int64, l *Limits, n int) (taken int, retry time.Duration) {
	if l.TapsPerSecond == 0 || l.Burst == 0 {
		return 0, time.Second
	}
	each := l.perTap()
	depth := each * int64(l.Burst)
	for {
		full := a.full.Load()
		used := max(full-now, 0)
		k := min(int64(n), max(depth-used, 0)/each)
		if k > 0 && !a.full.CompareAndSwap(full, now+used+k*each) {
			continue
		}
		if k == int64(n) {
			return n, 0
		}
		wait := used + (k+1)*each - depth
		return int(k), time.Duration((wait + ticksPerNano - 1) / ticksPerNano)
	}
}

// rescale keeps the number of taps that are missing from the bucket when its
// rate or depth changes.
func (a *account) rescale(now int64, before, after *Limits) {
	if *before == *after || before.TapsPerSecond == 0 || after.TapsPerSecond == 0 {
		return
	}
	was, is := before.perTap(), after.perTap()
	for {
		full := a.full.Load()
		missing := (max(full-now, 0) + was - 1) / was
		missing = min(missing, int64(after.Burst))
		if missing == 0 || a.full.CompareAndSwap(full, now+missing*is) {
			return
		}
	}
}

// enter raises a counter by up to n, to most at the most.
func enter(counter *atomic.Int64, n int, most uint32) int {
	for {
		c := counter.Load()
		k := min(int64(n), int64(most)-c)
		if k <= 0 {
			return 0
		}
		if counter.CompareAndSwap(c, c+k) {
			return int(k)
		}
	}
}

// leave lowers a counter by n, not below zero: a mistake in counting must not
// widen a limit.
func leave(counter *atomic.Int64, n int) {
	for {
		c := counter.Load()
		if counter.CompareAndSwap(c, max(c-int64(n), 0)) {
			return
		}
	}
}

// Admit asks for n taps to be worked on. Call Release for those admitted when
// they are done. It does not allocate.
func (p *Principal) Admit(now time.Time, n int) Admission {
	if p == nil || p.account == nil || n <= 0 {
		return Admission{By: LimitRate, RetryAfter: time.Second}
	}
	a := p.account
	room := enter(&a.inFlight, n, p.limits.TapsInFlight)
	if room == 0 {
		return Admission{By: LimitInFlight, RetryAfter: RetryWhenFull}
	}
	taken, retry := a.take(a.ticks(now), &p.limits, room)
	leave(&a.inFlight, room-taken)
	switch {
	case taken < room:
		return Admission{Taps: taken, By: LimitRate, RetryAfter: retry}
	case room < n:
		return Admission{Taps: taken, By: LimitInFlight, RetryAfter: RetryWhenFull}
	}
	return Admission{Taps: taken}
}

// Release gives back n admitted taps, also after a reload.
func (p *Principal) Release(n int) {
	if p != nil && p.account != nil && n > 0 {
		leave(&p.account.inFlight, n)
	}
}

// OpenStream asks for one more stream. Call CloseStream when it ends.
func (p *Principal) OpenStream() bool {
	return p != nil && p.account != nil && enter(&p.account.streams, 1, p.limits.Streams) == 1
}

// CloseStream gives back a stream, also after a reload.
func (p *Principal) CloseStream() {
	if p != nil && p.account != nil {
		leave(&p.account.streams, 1)
	}
}
