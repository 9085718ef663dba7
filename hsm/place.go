package hsm

import "math"

// place gives a call to a connection, or lets it wait for one.
func (p *Pool) place(call *Call, now int64) {
	if c := p.choose(nil); c != nil {
		c.send(call, now)
		return
	}
	p.waiting = append(p.waiting, call)
	p.soonest = min(p.soonest, call.state.deadline)
}

// choose picks the open connection with the fewest calls out, a stalled one
// only if all are. Connections of the worker behind avoid are left out.
func (p *Pool) choose(avoid *conn) *conn {
	var best *conn
	for _, c := range p.conns {
		switch {
		case c.phase != open || c.full():
		case avoid != nil && c.epoch == avoid.epoch:
		case best == nil,
			c.stalled == best.stalled && c.pending.n < best.pending.n,
			!c.stalled && best.stalled:
			best = c
		}
	}
	return best
}

// placeWaiting gives waiting calls to connections, in order, as far as they
// can take them.
func (p *Pool) placeWaiting(now int64) {
	placed := 0
	for ; placed < len(p.waiting); placed++ {
		c := p.choose(nil)
		if c == nil {
			break
		}
		c.send(p.waiting[placed], now)
	}
	if placed == 0 {
		return
	}
	n := copy(p.waiting, p.waiting[placed:])
	clear(p.waiting[n:])
	p.waiting = p.waiting[:n]
	if n == 0 {
		p.soonest = math.MaxInt64
	}
}

// expireWaiting moves waiting calls that are past their deadline, or past the
// grace for a worker to come back, to done.
func (p *Pool) expireWaiting(now int64, done []*Call) []*Call {
	over := p.outageOver(now)
	if len(p.waiting) == 0 || (!over && now < p.soonest) {
		return done
	}
	p.soonest = math.MaxInt64
	kept := p.waiting[:0]
	for _, call := range p.waiting {
		switch {
		case call.state.deadline <= now:
			p.finish(call, DeadlineExceeded)
			done = append(done, call)
		case over:
			p.finish(call, NoWorker)
			done = append(done, call)
		default:
			p.soonest = min(p.soonest, call.state.deadline)
			kept = append(kept, call)
		}
	}
	clear(p.waiting[len(kept):])
	p.waiting = kept
	return done
}

// maxAttempts is the number of workers that may see one call: a request that
// kills workers must not kill them all.
const maxAttempts = 2

// retry gives the calls of a lost connection to another one, and returns those
// that have had their attempts, finished.
func (p *Pool) retry(c *conn, now int64) (failed []*Call) {
	p.reclaim(c, now)
	for _, call := range c.pending.takeFrom(0, nil) {
		if call.state.attempts >= maxAttempts {
			p.finish(call, NoWorker)
			failed = append(failed, call)
			continue
		}
		p.stats.Retries++
		p.place(call, now)
	}
	return failed
}

// reclaim takes back the calls that the connection, which is no longer open,
// has not written: no worker saw them, so they have not cost an attempt.
func (p *Pool) reclaim(c *conn, now int64) {
	for _, call := range c.pending.takeFrom(c.written, nil) {
		call.state.attempts--
		p.place(call, now)
	}
	c.out.reset()
}
