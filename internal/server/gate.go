package server

import (
	"context"
	"sync"
	"time"
)

// fewestPlaces is what a gate never goes below: a few workers' worth, so that a
// slow stretch cannot shut it.
const fewestPlaces = 16

// A gate bounds the taps that the daemon works on at one time. The bound moves:
// when taps wait for the HSM longer than target, there are more of them in the
// house than it can do in time, and all would be late together. Then the gate
// lets in only as many as come out within target, and the rest hear so at once.
type gate struct {
	size   int           // most places
	target time.Duration // 0: the bound does not move

	mu       sync.Mutex
	used     int
	limit    int       // places now
	adjusted time.Time // taps that went in before it say nothing new
	change   *sync.Cond
}

func newGate(size int, target time.Duration) *gate {
	g := &gate{size: size, limit: size, target: target}
	g.change = sync.NewCond(&g.mu)
	return g
}

// try takes one place if there is one.
func (g *gate) try() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used >= g.limit {
		return false
	}
	g.used++
	return true
}

// take waits for at least one place, at most for patience, and takes up to
// want. It takes none when ctx ends or patience does.
func (g *gate) take(ctx context.Context, want int, patience time.Duration) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used >= g.limit {
		if patience <= 0 {
			return 0
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
		stop := context.AfterFunc(ctx, func() {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.change.Broadcast()
		})
		defer stop()
	}
	for g.used >= g.limit {
		if ctx.Err() != nil {
			return 0
		}
		g.change.Wait()
	}
	n := min(want, g.limit-g.used)
	g.used += n
	return n
}

// release gives n places back.
func (g *gate) release(n int) {
	if n == 0 {
		return
	}
	g.mu.Lock()
	g.used -= n
	g.mu.Unlock()
	g.change.Broadcast()
}

// observe moves the bound by the time that a tap spent with the HSM.
func (g *gate) observe(entered, left time.Time) {
	if g.target == 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if entered.Before(g.adjusted) {
		return
	}
	switch spent := left.Sub(entered); {
	case spent > g.target:
		// Little's law: as many as come out within target.
		g.limit = max(fewestPlaces, int(int64(min(g.limit, max(g.used, fewestPlaces)))*int64(g.target)/int64(spent)))
		g.limit = min(g.limit, g.size)
	case spent < g.target*3/4 && g.limit < g.size && g.used >= g.limit/2:
		g.limit = min(g.size, g.limit+max(g.limit/8, fewestPlaces/2))
		g.change.Broadcast()
	default:
		return
	}
	g.adjusted = left
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
	for g.used != 0 {
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
	return g.used
}

// places is the number of places there are now.
func (g *gate) places() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.limit
}
