package hsm

import (
	"context"
	"time"
)

// Times of the sweeper.
const (
	sweepInterval = 5 * time.Millisecond // how late a deadline may be noticed
	idleSweeps    = 200                  // in a row without calls; then it sleeps until kicked
)

// sweepUntil ends calls that are past their deadline and delivers refused ones.
func (p *Pool) sweepUntil(ctx context.Context) {
	timer := time.NewTimer(sweepInterval)
	defer timer.Stop()
	var f finisher
	for idle := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
		case <-timer.C:
		}
		if p.sweep(&f) {
			idle++
		} else {
			idle = 0
		}
		if idle < idleSweeps || !p.park() {
			timer.Reset(sweepInterval)
		}
	}
}

// sweep does one round and reports whether the pool is idle. Its work is in
// proportion to the calls that may be due, not to those in the pool.
func (p *Pool) sweep(f *finisher) bool {
	now := p.clock.nanos()
	var drained []*conn
	p.mu.Lock()
	f.done = append(f.done, p.refused...)
	clear(p.refused)
	p.refused = p.refused[:0]
	for _, c := range p.conns {
		f.done = p.expire(c, now, f.done)
		c.stalled = c.stalledFor(now) > p.o.StallAfter
		if c.drained() {
			drained = append(drained, c)
		}
	}
	f.done = p.expireWaiting(now, f.done)
	p.placeWaiting(now)
	idle := p.inFlight == 0
	p.mu.Unlock()
	f.deliver()
	for _, c := range drained {
		p.lose(c, errDrained)
	}
	return idle
}

// progress is what the sweeper last saw of a connection.
type progress struct {
	received uint64
	at       int64
}

// stalledFor is how long calls have been out while nothing came back. A long
// queue that moves is not a stall.
func (c *conn) stalledFor(now int64) time.Duration {
	if c.received != c.progress.received {
		c.progress = progress{received: c.received, at: now}
	}
	sent, busy := c.pending.oldestSent()
	if !busy {
		return 0
	}
	return time.Duration(now - max(sent, c.progress.at))
}

// expire moves the connection's calls that are past their deadline to done.
func (p *Pool) expire(c *conn, now int64, done []*Call) []*Call {
	first := len(done)
	done = c.pending.expire(now, done)
	for _, call := range done[first:] {
		p.finish(call, DeadlineExceeded)
	}
	return done
}

// park puts the sweeper to sleep if there is still nothing to do.
func (p *Pool) park() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parked = p.inFlight == 0 && len(p.refused) == 0
	return p.parked
}

// wakeSweeper makes the sweeper run if it sleeps or has something to deliver.
// The caller holds mu.
func (p *Pool) wakeSweeper() {
	if !p.parked && len(p.refused) == 0 {
		return
	}
	p.parked = false
	select {
	case p.kick <- struct{}{}:
	default: // it will run
	}
}
