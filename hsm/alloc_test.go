package hsm

import (
	"sync"
	"testing"
	"time"
)

type waiter struct{ sync.WaitGroup }

func (w *waiter) Completed(calls []*Call) { w.Add(-len(calls)) }

// In the steady state a call costs no allocation, from Submit to its sink.
func TestNoAllocationPerCall(t *testing.T) {
	const batch = 256
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", nil)
	startPeer(t, dir, "worker-1.sock", nil)
	p := startPool(t, dir, nil)
	waitOpen(t, p, 2)
	var w waiter
	calls := newLedger().calls(t, batch, 0)
	round := func() {
		deadline := time.Now().Add(5 * time.Second)
		for _, c := range calls {
			c.Sink, c.Deadline = &w, deadline
		}
		w.Add(batch)
		p.Submit(calls...)
		w.Wait()
	}
	for range 20 { // buffers grow to their size
		round()
	}
	if n := testing.AllocsPerRun(200, round); n > 4 {
		t.Errorf("%v allocations for %d calls", n, batch)
	}
}
