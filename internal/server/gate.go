package server

import (
	"context"
	"sync"
)

// A gate bounds the taps that the daemon works on at one time.
type gate struct {
	mu     sync.Mutex
	free   int
	size   int
	change *sync.Cond // free grew
}

func newGate(size int) *gate {
	g := &gate{free: size, size: size}
	g.change = sync.NewCond(&g.mu)
	return g
}

// try takes one place if there is one.
func (g *gate) try() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free == 0 {
		return false
	}
	g.free--
	return true
}

// take waits for at least one place and takes up to want. It takes none when
// ctx ends first.
func (g *gate) take(ctx context.Context, want int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.free == 0 {
		stop := context.AfterFunc(ctx, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.change.Broadcast()
		})
		defer stop()
	}
	for g.free == 0 {
		if ctx.Err() != nil {
			return 0
		}
		g.change.Wait()
	}
	n := min(want, g.free)
	g.free -= n
	return n
}

// release gives n places back.
func (g *gate) release(n int) {
	if n == 0 {
		return
	}
	g.mu.Lock()
	g.free += n
	g.mu.Unlock()
	g.change.Broadcast()
}

// waitEmpty waits until every place is free or ctx ends, and reports which.
func (g *gate) waitEmpty(ctx context.Context) bool {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.change.Broadcast()
	})
	defer stop()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.free != g.size {
		if ctx.Err() != nil {
			return false
		}
		g.change.Wait()
	}
	return true
}

// inFlight is the number of places taken.
func (g *gate) inFlight() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size - g.free
}
