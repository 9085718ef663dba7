package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/hsm/frame"
)

// Health asks a worker, another one each time, to prove a key to itself now.
// It tries the others if that one fails: nil means that one proved it. With no
// worker the error is ErrNoWorker.
func (p *Pool) Health(ctx context.Context) error {
	conns := p.inTurn()
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

// inTurn lists the open connections, each time beginning with the next.
func (p *Pool) inTurn() []*conn {
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
	r, err := c.ask(ctx, frame.TypeHealth, (*outbox).addHealth)
	if err != nil {
		return err
	}
	if r.Status != frame.StatusMatched {
		return fmt.Errorf("worker answers %v", answerTo(r.Status))
	}
	return nil
}
