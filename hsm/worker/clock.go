package worker

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A clock reads CLOCK_MONOTONIC, in which deadlines travel: both ends are on
// one machine. The runtime's own monotonic time is the same clock without a
// system call, so one reading at the start is enough.
type clock struct {
	base  int64
	start time.Time
}

func newClock() (clock, error) {
	var ts unix.Timespec
	start := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return clock{}, fmt.Errorf("reading the monotonic clock: %w", err)
	}
	return clock{base: ts.Nano(), start: start}, nil
}

// now is CLOCK_MONOTONIC in nanoseconds.
func (c clock) now() int64 { return c.base + int64(time.Since(c.start)) }
