package authz

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var time0 = time.Now()

func limited(l Limits) *Principal {
	return &Principal{limits: l, account: newAccount(time0)}
}

// TestBucket is a story with known numbers.
func TestBucket(t *testing.T) {
	p := limited(Limits{TapsPerSecond: 10, Burst: 5, TapsInFlight: 100, Streams: 1})
	at := func(d time.Duration, n, taps int, retry time.Duration) {
		t.Helper()
		a := p.Admit(time0.Add(d), n)
		if a.Taps != taps || a.RetryAfter != retry || (a.By == LimitNone) != (taps == n) {
			t.Fatalf("at %v: %+v, want %d taps and %v", d, a, taps, retry)
		}
		p.Release(a.Taps)
	}
	at(0, 3, 3, 0)
	at(0, 4, 2, 100*time.Millisecond)
	at(40*time.Millisecond, 1, 0, 60*time.Millisecond)
	at(100*time.Millisecond, 1, 1, 0)
	at(100*time.Millisecond, 1, 0, 100*time.Millisecond)
	at(90*time.Millisecond, 1, 0, 110*time.Millisecond) // another goroutine read the clock earlier
	at(time.Hour, 100, 5, 100*time.Millisecond)         // a pause gives a burst, no more
}

// TestBucketNeverExceeds: over any window that begins with any of the taps, at
// most rate × time + burst are admitted; and a caller who waits as told is
// admitted.
func TestBucketNeverExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Limits{
			TapsPerSecond: rapid.OneOf(rapid.Uint32Range(1, 20), rapid.Uint32Range(1, maxRate)).Draw(t, "rate"),
			Burst:         rapid.OneOf(rapid.Uint32Range(1, 20), rapid.Uint32Range(1, maxCount)).Draw(t, "burst"),
			TapsInFlight:  maxCount, Streams: 1,
		}
		p := limited(l)
		start := rapid.Int64Range(-int64(time.Hour), int64(100*24*time.Hour)).Draw(t, "start")
		now := time0.Add(time.Duration(start))
		type event struct {
			at time.Time
			n  int
		}
		var events []event
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			step := rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, int64(3*time.Second))).Draw(t, "step")
			now = now.Add(time.Duration(step))
			n := rapid.OneOf(rapid.IntRange(1, 10), rapid.IntRange(1, maxCount)).Draw(t, "n")
			a := p.Admit(now, n)
			if a.Taps < 0 || a.Taps > n || (a.Taps < n) != (a.RetryAfter > 0) || (a.Taps < n) != (a.By == LimitRate) {
				t.Fatalf("%+v of %d", a, n)
			}
			p.Release(a.Taps)
			events = append(events, event{now, a.Taps})
			if a.RetryAfter > 0 && rapid.Bool().Draw(t, "wait") {
				if early := a.RetryAfter - time.Nanosecond; early > 0 && p.Admit(now.Add(early-1), 1).Taps != 0 {
					t.Fatalf("admitted before %v", a.RetryAfter)
				}
				now = now.Add(a.RetryAfter)
				if b := p.Admit(now, 1); b.Taps != 1 {
					t.Fatalf("told to wait %v and then refused: %+v", a.RetryAfter, b)
				}
				p.Release(1)
				events = append(events, event{now, 1})
			}
		}
		for i := range events {
			sum := 0
			for _, e := range events[i:] {
				sum += e.n
				most := e.at.Sub(events[i].at).Seconds()*float64(l.TapsPerSecond) + float64(l.Burst)
				if float64(sum) > most+1e-6 {
					t.Fatalf("%d taps in %v, most %f", sum, e.at.Sub(events[i].at), most)
				}
			}
		}
		if c := p.account.inFlight.Load(); c != 0 {
			t.Fatalf("%d in flight", c)
		}
	})
}

// TestBucketRate: a caller who asks all the time gets its rate, not much less.
func TestBucketRate(t *testing.T) {
	for _, rate := range []uint32{1, 3, 7, 999, 17_000, 999_999, maxRate} {
		p := limited(Limits{TapsPerSecond: rate, Burst: 1 + rate/100, TapsInFlight: maxCount})
		got := 0
		for ms := range 2000 {
			a := p.Admit(time0.Add(time.Duration(ms)*time.Millisecond), maxCount)
			got += a.Taps
			p.Release(a.Taps)
		}
		want := 2*float64(rate) + float64(1+rate/100)
		if float64(got) > want || float64(got) < want*0.997-2 {
			t.Errorf("rate %d: %d in 2 s, want %f", rate, got, want)
		}
	}
}

// TestBucketFarClock: clocks far off neither open the bucket nor overflow.
func TestBucketFarClock(t *testing.T) {
	for _, l := range []Limits{
		{TapsPerSecond: 1, Burst: maxCount, TapsInFlight: maxCount},
		{TapsPerSecond: maxRate, Burst: maxCount, TapsInFlight: maxCount},
		{TapsPerSecond: 1, Burst: 1, TapsInFlight: maxCount},
	} {
		p := limited(l)
		for _, now := range []time.Time{{}, time0.AddDate(-500, 0, 0), time0, time0.AddDate(500, 0, 0), time0, {}} {
			before := p.account.full.Load()
			a := p.Admit(now, maxCount)
			if a.Taps < 0 || a.Taps > int(l.Burst) || a.RetryAfter < 0 || p.account.full.Load() < before {
				t.Errorf("%+v at %v: %+v", l, now, a)
			}
			p.Release(a.Taps)
		}
	}
}

// TestInFlight: partial admission, both limits at once, and counters that a
// mistake cannot push below zero.
func TestInFlight(t *testing.T) {
	p := limited(Limits{TapsPerSecond: 1000, Burst: 8, TapsInFlight: 5, Streams: 2})
	if a := p.Admit(time0, 7); a != (Admission{Taps: 5, By: LimitInFlight, RetryAfter: RetryWhenFull}) {
		t.Fatalf("%+v", a)
	}
	if a := p.Admit(time0, 1); a != (Admission{By: LimitInFlight, RetryAfter: RetryWhenFull}) {
		t.Fatalf("%+v", a)
	}
	p.Release(5)
	if a := p.Admit(time0, 4); a != (Admission{Taps: 3, By: LimitRate, RetryAfter: time.Millisecond}) {
		t.Fatalf("%+v", a)
	}
	p.Release(100)
	p.Release(-3)
	if c := p.account.inFlight.Load(); c != 0 {
		t.Fatalf("%d in flight", c)
	}
	for _, n := range []int{0, -1} {
		if a := p.Admit(time0.Add(time.Hour), n); a.Taps != 0 {
			t.Fatalf("%+v of %d", a, n)
		}
	}
	if n := openAll(p); n != 2 {
		t.Fatalf("%d streams, want 2", n)
	}
	p.CloseStream()
	if n := openAll(p); n != 1 {
		t.Fatalf("%d streams, want 1 more", n)
	}
	for _, k := range []LimitKind{LimitNone, LimitRate, LimitInFlight, LimitStreams} {
		if k.String() == "" || (k != LimitNone && k.String() == "none") {
			t.Errorf("limit %d is %q", k, k)
		}
	}
}

// openAll opens streams until there is no more.
func openAll(p *Principal) (n int) {
	for p.OpenStream() {
		n++
	}
	return n
}

// TestLimitsTogether: many goroutines never have more in flight than allowed,
// nor together more than the bucket holds.
func TestLimitsTogether(t *testing.T) {
	p := limited(Limits{TapsPerSecond: 1000, Burst: 500, TapsInFlight: 16, Streams: 3})
	var busy, streams, admitted atomic.Int64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				a := p.Admit(time0.Add(time.Duration(i)*10*time.Microsecond), 1+g%3)
				if busy.Add(int64(a.Taps)) > 16 {
					t.Error("more than 16 in flight")
				}
				admitted.Add(int64(a.Taps))
				busy.Add(-int64(a.Taps))
				p.Release(a.Taps)
				if p.OpenStream() {
					if streams.Add(1) > 3 {
						t.Error("more than 3 streams")
					}
					streams.Add(-1)
					p.CloseStream()
				}
			}
		})
	}
	wg.Wait()
	if n := admitted.Load(); n > 520 || n < 500 {
		t.Errorf("%d admitted in 20 ms, want 500 to 520", n)
	}
	if p.account.inFlight.Load() != 0 || p.account.streams.Load() != 0 {
		t.Error("counters are not back at zero")
	}
}
