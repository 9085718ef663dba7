package hsm

import (
	"fmt"
	"log/slog"

	"github.com/tapseal/tapseal/hsm/frame"
)

// settle applies what a connection received and gives the finished calls back.
// An error means that the worker broke the protocol: the connection must end.
func (p *Pool) settle(c *conn, in *inbox, f *finisher) error {
	p.mu.Lock()
	if c.phase == closed {
		p.mu.Unlock()
		return errPoolClosed
	}
	c.received++
	var err error
	for i := range in.replies {
		if err = p.settleReply(c, &in.replies[i], f); err != nil {
			break
		}
	}
	for _, h := range in.healthy {
		if err == nil {
			err = c.settleAsked(frame.TypeHealth, h)
		}
	}
	for i := range in.subjects {
		if err == nil {
			err = c.settleSubjects(&in.subjects[i])
		}
	}
	leaving := in.goAway && err == nil && c.phase == open
	if leaving {
		p.goAway(c)
	}
	if len(p.waiting) > 0 {
		p.placeWaiting(p.clock.nanos())
	}
	if err == nil && c.drained() {
		err = errDrained
	}
	callsOut := c.pending.n
	p.mu.Unlock()
	f.deliver()
	if leaving {
		p.log.Info("worker is going away", c.attrs(slog.Int("calls_out", callsOut))...)
	}
	return err
}

// settleReply ends the call that r answers, or gives it to another worker.
func (p *Pool) settleReply(c *conn, r *frame.Reply, f *finisher) error {
	if r.ID == 0 || r.ID >= c.written {
		return fmt.Errorf("%w: reply to an item that was not sent", frame.ErrFrame)
	}
	call := c.pending.get(r.ID)
	if call == nil { // past its deadline, and answered so
		p.stats.LateReplies++
		return nil
	}
	if !arpcFits(r, call.Request.Response.Kind) || !c.subjectsFit(r) {
		return fmt.Errorf("%w: reply does not fit its request", frame.ErrFrame)
	}
	c.pending.remove(r.ID)
	if mayDiffer(r.Status) && call.state.attempts < maxAttempts {
		if other := p.choose(c); other != nil {
			p.stats.Retries++
			other.send(call, p.clock.nanos())
			return nil
		}
	}
	p.finish(call, answerTo(r.Status))
	call.ARPC, call.ARPCBytes, call.Subjects = r.ARPC, r.ARPCBytes, r.Subjects
	f.done = append(f.done, call)
	return nil
}

// mayDiffer reports whether another worker may well answer otherwise: its token
// works, it has read a newer manifest, or it found the key that this one did
// not find when it started. Nothing was compared.
func mayDiffer(s frame.Status) bool {
	return s == frame.StatusTokenFailure || s == frame.StatusKeyUnknown || s == frame.StatusKeyUnproven
}

// drained reports whether a connection that is going away has nothing left.
func (c *conn) drained() bool {
	return c.phase == draining && c.pending.n == 0 && len(c.asked) == 0
}
