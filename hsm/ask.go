package hsm

import (
	"context"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/hsm/frame"
)

// A question is a frame for one connection that no call is behind: a worker
// answers it in its turn.
type question struct {
	kind   frame.Type
	answer chan frame.SubjectsReply // for one; closed without one when none will come
}

// errWentAway means that the connection ended or is going away.
var errWentAway = errors.New("worker went away")

// ask sends a question, written by add under its id, and waits for the answer
// or the end of ctx.
func (c *conn) ask(ctx context.Context, kind frame.Type, add func(*outbox, uint64)) (frame.SubjectsReply, error) {
	id, answer, ok := c.sendQuestion(kind, add)
	if !ok {
		return frame.SubjectsReply{}, errWentAway
	}
	select {
	case r, ok := <-answer:
		if !ok {
			return frame.SubjectsReply{}, errWentAway
		}
		return r, nil
	case <-ctx.Done():
		c.forget(id)
		return frame.SubjectsReply{}, ctx.Err()
	}
}

func (c *conn) sendQuestion(kind frame.Type, add func(*outbox, uint64)) (uint64, <-chan frame.SubjectsReply, bool) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	if c.phase != open {
		return 0, nil, false
	}
	c.askedID++
	answer := make(chan frame.SubjectsReply, 1)
	c.asked[c.askedID] = question{kind, answer}
	add(&c.out, c.askedID)
	c.wake()
	return c.askedID, answer, true
}

func (c *conn) forget(id uint64) {
	c.pool.mu.Lock()
	defer c.pool.mu.Unlock()
	delete(c.asked, id)
}

// settleAsked hands an answer to who waits for it. The caller holds pool.mu.
func (c *conn) settleAsked(kind frame.Type, r frame.SubjectsReply) error {
	if r.ID == 0 || r.ID > c.askedID {
		return fmt.Errorf("%w: answer that was not asked for", frame.ErrFrame)
	}
	q, ok := c.asked[r.ID]
	switch {
	case !ok: // nobody waits any more
		return nil
	case q.kind != kind:
		return fmt.Errorf("%w: answer to another question", frame.ErrFrame)
	}
	q.answer <- r
	delete(c.asked, r.ID)
	return nil
}

// dropAsked tells all who wait that no answer will come. The caller holds
// pool.mu.
func (c *conn) dropAsked() {
	for _, q := range c.asked {
		close(q.answer)
	}
	clear(c.asked)
}
