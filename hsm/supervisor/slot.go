package supervisor

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
)

// Limits of recycling.
const (
	// replaceRetry is the pause after a replacement failed to start.
	replaceRetry = 5 * time.Second
	// retireLimit is how long an old worker may take to end after a drain
	// order before it is killed.
	retireLimit = worker.DrainLimit + 2*time.Second
	// overdueFactor times recycle_after is where a worker that could not be
	// replaced is reported as overdue. It goes on serving: memory is bounded
	// by the operating system, and an outage made by ourselves is worse.
	overdueFactor = 4
)

// States of a slot.
const (
	stateStarting = "starting" // no worker serves
	stateServing  = "serving"
	stateStopped  = "stopped" // logins are stopped and no worker serves
	stateDraining = "draining"
)

// A slot is one worker socket and whatever process serves it.
type slot struct {
	s        *Supervisor
	n        int
	listener *os.File
	asked    chan struct{} // somebody wants a recycling

	mu        sync.Mutex // guards what follows, for the status page
	state     string
	current   *process
	since     time.Time
	restarts  uint64
	recycles  uint64
	served    uint64 // by processes that ended
	refused   uint64
	lastError string
	lastAt    time.Time
}

// run keeps a worker in the slot until ctx ends.
func (sl *slot) run(ctx context.Context) {
	var wait backoff
	for ctx.Err() == nil {
		sl.setState(stateStarting)
		p, err := sl.s.launch(ctx, sl)
		switch {
		case err == nil:
			began := time.Now()
			sl.serve(ctx, p)
			wait.served(time.Since(began))
		case errors.Is(err, errStopped):
			sl.setState(stateStopped)
			sl.s.logins.waitAllowed(ctx)
			wait = backoff{}
		default:
			sl.failed("worker could not start", err)
		}
		if !sleep(ctx, wait.pause()) {
			break
		}
	}
	sl.setState(stateDraining)
}

// serve lets p serve, and its successors, until none is left or ctx ends.
func (sl *slot) serve(ctx context.Context, p *process) {
	sl.install(p)
	tick := time.NewTicker(worker.BeatInterval)
	defer tick.Stop()
	stuck := stuckWatch{limit: sl.s.c.stuckAfter()}
	var next replacement
	forced := false
	for {
		select {
		case <-ctx.Done():
			next.abandon()
			sl.retire(p)
			return
		case <-p.exited:
			sl.buried(p)
			if p = next.take(); p == nil {
				return
			}
			sl.install(p)
			stuck = stuckWatch{limit: sl.s.c.stuckAfter()}
		case r := <-next.ready:
			if r.err != nil {
				sl.failed("replacement could not start", r.err)
				next.failed()
				continue
			}
			old, turn := p, next.release()
			p = r.p
			sl.recycled(old, p, turn)
			stuck, forced = stuckWatch{limit: sl.s.c.stuckAfter()}, false
		case <-sl.asked:
			forced = true
		case <-tick.C:
			if why := stuck.look(p); why != "" {
				sl.s.log.Error("killing a stuck worker", "worker", sl.n, "pid", p.pid, "reason", why)
				p.kill()
				continue
			}
			b, _ := p.lastBeat()
			if forced || b.Served >= sl.s.c.RecycleAfter {
				next.begin(ctx, sl)
			}
		}
	}
}

// install makes p the one that accepts connections.
func (sl *slot) install(p *process) {
	p.order(worker.OrderGo)
	sl.mu.Lock()
	sl.current, sl.state, sl.since = p, stateServing, time.Now()
	sl.mu.Unlock()
	sl.s.log.Info("worker serves", "worker", sl.n, "pid", p.pid, "start_ms", time.Since(p.started).Milliseconds())
}

// recycled swaps the workers. The order matters little to clients: the
// listening socket is the same, a connection made in between waits in its queue.
func (sl *slot) recycled(old, p *process, turn func()) {
	old.order(worker.OrderDrain)
	sl.install(p)
	sl.mu.Lock()
	sl.recycles++
	sl.mu.Unlock()
	sl.s.background.Add(1)
	go func() {
		defer sl.s.background.Done()
		defer turn() // the next slot waits until the old process is gone
		sl.awaitEnd(old)
		sl.addServed(old)
		sl.s.log.Info("worker recycled", "worker", sl.n, "old_pid", old.pid, "pid", p.pid, "end", old.ended())
	}()
}

// retire drains p and waits for its end.
func (sl *slot) retire(p *process) {
	sl.setState(stateDraining)
	p.order(worker.OrderDrain)
	sl.awaitEnd(p)
	sl.addServed(p)
	sl.s.log.Info("worker ended", "worker", sl.n, "pid", p.pid, "end", p.ended())
}

// awaitEnd waits for a draining process and kills it if it takes too long or
// is stuck in the module.
func (sl *slot) awaitEnd(p *process) {
	tick := time.NewTicker(worker.BeatInterval)
	defer tick.Stop()
	limit := time.NewTimer(retireLimit)
	defer limit.Stop()
	stuck := stuckWatch{limit: sl.s.c.stuckAfter()}
	for {
		select {
		case <-p.exited:
			return
		case <-limit.C:
			p.kill()
		case <-tick.C:
			if stuck.look(p) != "" {
				p.kill()
			}
		}
	}
}

// buried notes that the serving process died by itself or was killed.
func (sl *slot) buried(p *process) {
	sl.addServed(p)
	sl.mu.Lock()
	sl.restarts++
	sl.current, sl.state = nil, stateStarting
	sl.lastError, sl.lastAt = "worker died: "+p.ended(), time.Now()
	sl.mu.Unlock()
	sl.s.log.Error("worker died", "worker", sl.n, "pid", p.pid, "end", p.ended())
}

func (sl *slot) failed(what string, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	sl.mu.Lock()
	sl.lastError, sl.lastAt = err.Error(), time.Now()
	sl.mu.Unlock()
	sl.s.log.Error(what, "worker", sl.n, "error", err)
}

func (sl *slot) addServed(p *process) {
	b, _ := p.lastBeat()
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.served += b.Served
	sl.refused += b.Refused
	if sl.current == p {
		sl.current = nil
	}
}

func (sl *slot) setState(s string) {
	sl.mu.Lock()
	sl.state = s
	sl.mu.Unlock()
}
