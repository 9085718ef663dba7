package supervisor

import (
	"context"
	"time"
)

// A replacement is the successor of a serving worker while it starts. The
// zero value is none. Only the goroutine of its slot touches it.
type replacement struct {
	ready   chan started // nil if none is under way
	cancel  context.CancelFunc
	turn    func() // gives back the turn to recycle
	notTill time.Time
}

type started struct {
	p   *process
	err error
}

// begin starts a successor if none is under way, the slot has not just
// failed, and no other slot recycles: two workers of a few must not be away
// from their memory budget, or log in, at once.
func (r *replacement) begin(ctx context.Context, sl *slot) {
	if r.ready != nil || time.Now().Before(r.notTill) {
		return
	}
	select {
	case sl.s.recycling <- struct{}{}:
	default:
		return
	}
	ctx, r.cancel = context.WithCancel(ctx)
	r.turn = func() { <-sl.s.recycling }
	r.ready = make(chan started, 1)
	ready := r.ready
	go func() {
		p, err := sl.s.launch(ctx, sl)
		ready <- started{p, err}
	}()
}

// failed forgets a successor that did not get ready; the old one serves on.
func (r *replacement) failed() {
	r.end()
	r.notTill = time.Now().Add(replaceRetry)
}

// take waits for the successor, when the old worker has died meanwhile. It is
// nil if there is none or it failed.
func (r *replacement) take() *process {
	if r.ready == nil {
		return nil
	}
	s := <-r.ready
	r.end()
	return s.p
}

// release hands the turn to the caller, who gives it back when the old worker
// has ended.
func (r *replacement) release() func() {
	turn := r.turn
	r.cancel()
	*r = replacement{}
	return turn
}

// abandon ends a successor that is not wanted any more.
func (r *replacement) abandon() {
	if r.ready == nil {
		return
	}
	r.cancel()
	if s := <-r.ready; s.p != nil {
		s.p.kill()
		<-s.p.exited
	}
	r.end()
}

func (r *replacement) end() {
	r.cancel()
	r.turn()
	*r = replacement{}
}
