package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// A pool keeps connections of one isolation level.
type pool struct {
	open  func(context.Context) (*conn, error)
	life  time.Duration
	slots chan struct{} // one for each connection in use or being made

	making sync.WaitGroup
	ctx    context.Context //nolint:containedctx // of the connections being made, which outlive whoever asks for them
	stop   context.CancelFunc

	mu         sync.Mutex // guards what follows
	idle       []*conn    // the last one back is the first one out
	generation int        // counts the times that all connections were given up
}

func newPool(n int, life time.Duration, open func(context.Context) (*conn, error)) *pool {
	p := &pool{open: open, life: life, slots: make(chan struct{}, n)}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// get borrows a connection; fresh says that it was made for this call.
func (p *pool) get(ctx context.Context) (c *conn, fresh bool, err error) {
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	if c := p.takeIdle(); c != nil {
		return c, false, nil
	}
	c, err = p.make(ctx)
	return c, true, err
}

// make makes a connection for a slot. If the caller cannot wait so long the next
// one has it: otherwise callers with short deadlines would never get one from a
// slow server.
func (p *pool) make(ctx context.Context) (*conn, error) {
	p.mu.Lock()
	generation := p.generation
	p.mu.Unlock()
	type made struct {
		c   *conn
		err error
	}
	done := make(chan made)
	p.making.Go(func() {
		c, err := p.open(p.ctx)
		if err == nil {
			c.generation = generation
		}
		select {
		case done <- made{c, err}:
		case <-ctx.Done():
			if err != nil {
				<-p.slots
				return
			}
			p.put(c, nil)
		}
	})
	select {
	case m := <-done:
		if m.err != nil {
			<-p.slots
		}
		return m.c, m.err
	case <-ctx.Done():
		return nil, fmt.Errorf("connecting to the database: %w", context.Cause(ctx))
	}
}

// close ends the pool; no connection must be in use.
func (p *pool) close() {
	p.stop()
	p.making.Wait()
	p.drop()
}

func (p *pool) takeIdle() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if time.Since(c.born) < p.life && !c.IsClosed() {
			return c
		}
		c.discard()
	}
	return nil
}

// put gives a connection back; after an error it is closed, never used again.
func (p *pool) put(c *conn, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	<-p.slots
	if err != nil || c.generation != p.generation || c.IsClosed() {
		c.discard()
		return
	}
	p.idle = append(p.idle, c)
}

// drop gives up every connection: where one was cut the others are too, or lead
// to a server that is the primary no longer.
func (p *pool) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.generation++
	for _, c := range p.idle {
		c.discard()
	}
	p.idle = nil
}
