package hsm

import (
	"encoding/hex"
	"log/slog"
	"slices"
)

// admit makes a connection usable after its handshake, unless the pool is
// closed.
func (p *Pool) admit(c *conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.stats.Connects++
	p.conns = append(p.conns, c)
	p.open++
	p.ready.Store(true)
	p.wg.Go(c.read)
	p.wg.Go(c.write)
	p.placeWaiting(p.clock.nanos())
	return true
}

// leaveOpen takes a connection out of use for new calls.
func (p *Pool) leaveOpen(c *conn, next phase) {
	if c.phase == open {
		p.open--
		close(c.gone)
	}
	c.phase = next
	if p.open == 0 && p.ready.Swap(false) {
		p.lostAt = p.clock.nanos()
	}
}

// goAway starts the end of a connection whose worker is being replaced. What
// was not written yet goes elsewhere.
func (p *Pool) goAway(c *conn) {
	p.stats.GoAways++
	p.leaveOpen(c, draining)
	p.reclaim(c, p.clock.nanos())
	c.dropAsked()
}

// retire ends a connection that holds no call any more.
func (p *Pool) retire(c *conn) {
	p.leaveOpen(c, closed)
	p.conns = slices.DeleteFunc(p.conns, func(x *conn) bool { return x == c })
	c.dropAsked()
	c.work.Signal()
	_ = c.nc.Close()
}

// lose ends a connection, whatever the cause, and gives its calls to another
// worker once. Only the first cause counts.
func (p *Pool) lose(c *conn, cause error) {
	var f finisher
	p.mu.Lock()
	if c.phase == closed {
		p.mu.Unlock()
		return
	}
	drained := c.drained()
	if !drained {
		p.stats.ConnectionsLost++
	}
	callsOut := c.pending.n
	p.leaveOpen(c, closed)
	f.done = p.retry(c, p.clock.nanos())
	p.retire(c)
	p.mu.Unlock()
	p.tables.remove(c)
	f.deliver()
	if drained {
		p.log.Info("worker connection drained", c.attrs()...)
		return
	}
	p.log.Warn("worker connection lost", c.attrs(
		slog.String("reason", cause.Error()), slog.Int("calls_out", callsOut), slog.Int("calls_failed", len(f.done)))...)
}

// attrs name a connection in a log record.
func (c *conn) attrs(more ...any) []any {
	return append([]any{slog.String("worker", c.worker), slog.String("epoch", hex.EncodeToString(c.epoch[:4]))}, more...)
}
