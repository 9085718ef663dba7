package hsm

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// maxTimeout keeps deadline arithmetic from overflowing.
const maxTimeout = 24 * time.Hour

// A clock turns Go times into CLOCK_MONOTONIC nanoseconds, which mean the same
// in every process of one boot. Go's monotonic reading comes from that clock
// but has an unknown origin, so both are read together once; after that a
// reading costs no system call.
type clock struct {
	at   time.Time
	mono int64
}

// newClock takes the closest of a few pairs of readings: one may be torn apart
// by the scheduler.
func newClock() (clock, error) {
	var best clock
	gap := time.Duration(math.MaxInt64)
	for range 16 {
		var ts unix.Timespec
		before := time.Now()
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			return clock{}, fmt.Errorf("reading the monotonic clock: %w", err)
		}
		if d := time.Since(before); d < gap {
			gap, best = d, clock{at: before.Add(d / 2), mono: ts.Nano()}
		}
	}
	return best, nil
}

// now reads the clock in both forms.
func (k *clock) now() (time.Time, int64) {
	t := time.Now()
	return t, k.mono + int64(t.Sub(k.at))
}

// nanos reads the clock in its wire form.
func (k *clock) nanos() int64 { return k.mono + int64(time.Since(k.at)) }

// wireDeadline is d in wire form, given a reading of the clock. The remaining
// time is what counts, so d may come from a wall clock.
func wireDeadline(d, now time.Time, mono int64) int64 {
	return mono + int64(max(min(d.Sub(now), maxTimeout), -1))
}
