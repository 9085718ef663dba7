package supervisor

import (
	"context"
	"time"
)

// Pauses between starts of one worker.
const (
	// firstPause follows the first restart, which is immediate.
	firstPause = 50 * time.Millisecond
	// longestPause leaves time for the start itself on a busy machine: service
	// must be back 2 s after what was broken is mended.
	longestPause = 500 * time.Millisecond
	// healthyAfter is how long a worker must have served to count as healthy.
	healthyAfter = time.Second
)

// A backoff gives the pauses before starts: none, 50 ms, 100 ms … 500 ms.
type backoff struct{ next time.Duration }

// pause is how long to wait before the next start.
func (b *backoff) pause() time.Duration {
	p := b.next
	b.next = min(max(firstPause, 2*p), longestPause)
	return p
}

// served forgets earlier failures after a healthy time.
func (b *backoff) served(healthy time.Duration) {
	if healthy >= healthyAfter {
		b.next = 0
	}
}

// sleep waits and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
