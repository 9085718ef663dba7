// Package hsm is the daemon's side of the HSM: a pool of connections to the
// data workers, each of which is a process of its own with one login to the
// token. It holds no key, no PIN and no module.
package hsm

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"

	"github.com/tapseal/tapseal/hsm/frame"
)

// ErrNoWorker means that no worker could be asked.
var ErrNoWorker = errors.New("no worker is connected")

// A Pool sends calls to the workers whose sockets are in one directory.
//
// Ownership makes an answer single: a call is in exactly one table (pending of
// one connection, waiting, or refused), all tables are guarded by mu, and only
// who took a call out of its table may finish it, after unlocking. So a reply,
// a deadline, a lost connection and Close cannot both have the same call.
type Pool struct {
	o      Options
	log    *slog.Logger
	clock  clock
	tables keyTables
	ready  atomic.Bool

	cancel context.CancelFunc
	wg     sync.WaitGroup
	kick   chan struct{} // wakes the sweeper

	mu       sync.Mutex
	closed   bool
	parked   bool                // the sweeper sleeps until kicked
	members  map[string]struct{} // sockets with a goroutine that keeps them connected
	conns    []*conn             // open and draining
	open     int                 // of them open
	lostAt   int64               // when the last open connection was lost, while there is none
	inFlight int
	waiting  []*Call // no connection can take them
	soonest  int64   // no deadline in waiting is earlier
	refused  []*Call // finished by Submit, for the sweeper to deliver
	turn     int     // of the connection that Health asks first
	item     frame.Item
	stats    Stats
}

// NewPool starts a pool. It does not wait for workers: Ready says whether
// there is one. The error is about the options only.
func NewPool(o Options) (*Pool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	k, err := newClock()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{
		o: o, log: o.Log, clock: k, cancel: cancel,
		kick: make(chan struct{}, 1), parked: true,
		members: make(map[string]struct{}), lostAt: k.nanos(), soonest: math.MaxInt64,
	}
	p.wg.Go(func() { p.watch(ctx) })
	p.wg.Go(func() { p.sweepUntil(ctx) })
	return p, nil
}

// Submit takes the calls and never blocks. Each call is finished exactly once
// through its Sink, from another goroutine. The slice is not kept.
func (p *Pool) Submit(calls ...*Call) {
	now, nanos := p.clock.now()
	p.mu.Lock()
	for _, c := range calls {
		c.Answer, c.ARPC, c.ARPCBytes, c.Subjects = 0, [8]byte{}, 0, [2]Subject{}
		c.state = callState{deadline: wireDeadline(c.Deadline, now, nanos)}
		p.stats.Submitted++
		if a := p.refusal(c, nanos); a != 0 {
			p.answer(c, a)
			p.refused = append(p.refused, c)
			continue
		}
		p.inFlight++
		p.place(c, nanos)
	}
	p.wakeSweeper()
	orphans := p.refusedAfterClose()
	p.mu.Unlock()
	if len(orphans) > 0 {
		go (&finisher{done: orphans}).deliver()
	}
}

// refusal says why a call is not even tried, or 0.
func (p *Pool) refusal(c *Call, now int64) Answer {
	switch {
	case p.closed:
		return NoWorker
	case c.state.deadline <= now:
		return DeadlineExceeded
	case !frame.Encodable(&c.Request):
		return Malformed
	case p.inFlight >= p.o.MaxInFlight:
		return Overloaded
	case p.outageOver(now):
		return NoWorker
	}
	return 0
}

// refusedAfterClose takes the calls that no sweeper is left to deliver.
func (p *Pool) refusedAfterClose() []*Call {
	if !p.closed {
		return nil
	}
	calls := p.refused
	p.refused = nil
	return calls
}

// outageOver reports whether calls have waited for a worker long enough.
func (p *Pool) outageOver(now int64) bool {
	return p.open == 0 && now-p.lostAt > int64(p.o.NoWorkerGrace)
}

// answer records the answer to a call that is in no table any more. The caller
// delivers it after unlocking.
func (p *Pool) answer(c *Call, a Answer) {
	c.Answer = a
	p.stats.Answers[a]++
}

// finish is answer for a call that counted as in flight.
func (p *Pool) finish(c *Call, a Answer) {
	p.inFlight--
	p.answer(c, a)
}

// Ready reports whether a worker is connected.
func (p *Pool) Ready() bool { return p.ready.Load() }

// Close finishes every call in the pool as NoWorker, closes the connections
// and waits for the pool's goroutines. It must not be called from a Sink.
// Calls submitted later are NoWorker as well.
func (p *Pool) Close() {
	p.cancel()
	var f finisher
	p.mu.Lock()
	p.closed = true
	f.done, p.refused = p.refused, nil
	for _, c := range p.waiting {
		p.finish(c, NoWorker)
		f.done = append(f.done, c)
	}
	p.waiting = nil
	for len(p.conns) > 0 {
		c := p.conns[0]
		first := len(f.done)
		f.done = c.pending.takeFrom(0, f.done)
		for _, call := range f.done[first:] {
			p.finish(call, NoWorker)
		}
		p.retire(c)
	}
	p.mu.Unlock()
	f.deliver()
	p.wg.Wait()
}
