package supervisor

import (
	"context"
	"time"
)

// Pauses between starts of one worker.
const (
	// firstPause follows the first restart, which is immediate. A worker that
	// served is never waited for longer, however often it dies: service must
	// be back in time also if somebody kills workers all the time.
	firstPause = 50 * time.Millisecond
	// longestPause leaves time for the start itself on a busy machine: service
	// must be back 2 s after what was broken is mended.
	longestPause = 500 * time.Millisecond
	// healthyAfter is how long a worker must have served to be replaced at
	// once. The short pause keeps one that dies of its first request from
	// taking the machine, and the token, for its logins alone.
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

// served forgets earlier failures: only who fails before it serves is waited
// for longer and longer.
func (b *backoff) served(healthy time.Duration) {
	b.next = 0
	if healthy < healthyAfter {
		b.next = firstPause
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
