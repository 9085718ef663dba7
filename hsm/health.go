package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/hsm/frame"
)

// errCanaryLost means that the connection ended or is going away.
var errCanaryLost = errors.New("worker went away")

// Health asks a worker, another one each time, to prove a key to itself now.
// It tries the others if that one fails: nil means that one proved it. With no
// worker the error is ErrNoWorker.
func (p *Pool) Health(ctx context.Context) error {
	conns := p.healthOrder()
	if len(conns) == 0 {
		return ErrNoWorker
	}
	var failed []error
	for _, c := range conns {
		err := p.proveOne(ctx, c)
		if err == nil {
			return nil
		}
		failed = append(failed, fmt.Errorf("canary on %s: %w", c.worker, err))
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

// healthOrder lists the open connections, each time beginning with the next.
func (p *Pool) healthOrder() []*conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	var conns []*conn
	for _, c := range p.conns {
		if c.phase == open {
			conns = append(conns, c)
		}
	}
	if len(conns) == 0 {
		return nil
	}
	p.turn = (p.turn + 1) % len(conns)
	return append(conns[p.turn:len(conns):len(conns)], conns[:p.turn]...)
}

func (p *Pool) proveOne(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, p.o.HealthTimeout)
	defer cancel()
	id, answer, ok := c.sendCanary()
	if !ok {
		return errCanaryLost
	}
	select {
	case status, ok := <-answer:
		switch {
		case !ok:
			return errCanaryLost
		case status != frame.StatusMatched:
			return fmt.Errorf("worker answers %v", answerTo(status))
		}
		return nil
	case <-ctx.Done():
		c.forgetCanary(id)
		return ctx.Err()
	}
}

func (c *conn) sendCanary() (uint64, <-chan frame.Status, bool) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.phase != open {
		return 0, nil, false
	}
	c.canaryID++
	answer := make(chan frame.Status, 1)
	c.canaries[c.canaryID] = answer
	c.out.addHealth(c.canaryID)
	c.wake()
	return c.canaryID, answer, true
}

func (c *conn) forgetCanary(id uint64) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	delete(c.canaries, id)
}

// settleCanary hands a Healthy frame to who waits for it. The caller holds
// pool.mu.
func (c *conn) settleCanary(r canaryReply) error {
	if r.id == 0 || r.id > c.canaryID {
		return fmt.Errorf("%w: canary that was not asked for", frame.ErrFrame)
	}
	if answer, ok := c.canaries[r.id]; ok {
		answer <- r.status
		delete(c.canaries, r.id)
	}
	return nil
}

// dropCanaries tells all who wait that no answer will come. The caller holds
// pool.mu.
func (c *conn) dropCanaries() {
	for _, answer := range c.canaries {
		close(answer)
	}
	clear(c.canaries)
}
