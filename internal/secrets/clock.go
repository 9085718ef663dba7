package secrets

import (
	"crypto/rand"
	"encoding/binary"
	"time"
)

// A Clock tells the time and waits. Tests move it by hand.
type Clock interface {
	Now() time.Time
	After(time.Duration) <-chan time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time                         { return time.Now() }
func (systemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// jitter spreads d over ±10 %, so that a fleet started at once does not come
// back at once.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	fraction := float64(binary.LittleEndian.Uint64(b[:])>>11) / (1 << 53)
	return time.Duration(float64(d) * (0.9 + 0.2*fraction))
}

// Limits of the waits between attempts that fail.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// A backoff doubles its waits until something works.
type backoff struct{ next time.Duration }

func (b *backoff) wait() time.Duration {
	if b.next == 0 {
		b.next = firstRetry
	}
	d := b.next
	b.next = min(2*b.next, lastRetry)
	return jitter(d)
}

func (b *backoff) reset() { b.next = 0 }
