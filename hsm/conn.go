package hsm

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
)

// phase is the life of a connection after its handshake.
type phase uint8

const (
	open     phase = 1 // takes calls
	draining phase = 2 // the worker said GoAway: calls out are still answered
	closed   phase = 3 // in no list, holds no call
)

// Reasons why a connection ends.
var (
	errDrained    = errors.New("worker went away, all calls are answered")
	errPoolClosed = errors.New("pool is closed")
)

// A conn is one connection to a worker after its handshake. Two goroutines
// serve it: read and write.
type conn struct {
	pool     *Pool
	worker   string // name of the socket, for logs
	nc       *net.UnixConn
	epoch    [frame.EpochBytes]byte
	keys     []frame.KeyEntry
	versions subjectVersions // of the subject keys in keys
	admitted time.Time
	gone     chan struct{} // closed when phase is no longer open

	// Guarded by pool.mu.
	phase    phase
	stalled  bool   // calls are out, and nothing has come back for StallAfter
	received uint64 // reads that brought something
	progress progress
	pending  pending
	out      outbox
	written  uint64 // ids below were handed to the socket
	resting  bool   // write waits for work
	work     *sync.Cond
	asked    map[uint64]question // Health and Subject frames without an answer, by id
	askedID  uint64              // the last one
}

func newConn(p *Pool, worker string, nc *net.UnixConn) *conn {
	return &conn{
		pool: p, worker: worker, nc: nc, gone: make(chan struct{}),
		phase: open, pending: newPending(), written: 1,
		work: sync.NewCond(&p.mu), asked: make(map[uint64]question),
	}
}

// full reports whether the connection can take no more calls for now.
func (c *conn) full() bool {
	return len(c.out.bytes) >= maxUnsentBytes || c.pending.window() >= maxWindow
}

// send enters the call and queues its item. The caller holds pool.mu.
func (c *conn) send(call *Call, now int64) {
	call.state.attempts++
	it := &c.pool.item
	it.ID = c.pending.add(call, now)
	it.Deadline = call.state.deadline
	it.Key, it.Caller = call.Key, call.Caller
	it.Request = call.Request
	c.out.addItem(it)
	c.wake()
}

// wake tells write that there is work.
func (c *conn) wake() {
	if c.resting {
		c.resting = false
		c.work.Signal()
	}
}

// write sends what is queued until the connection is closed. While one write
// is under way the next items collect, so batches grow with the load. A write
// by the submitter itself would spare a lone call a third of its CPU, but costs
// many single callers seven times more: each would write alone.
func (c *conn) write() {
	p := c.pool
	var buf []byte
	p.mu.Lock()
	for {
		for c.phase != closed && len(c.out.bytes) == 0 {
			c.resting = true
			c.work.Wait()
		}
		if c.phase == closed {
			p.mu.Unlock()
			return
		}
		buf = c.out.take(buf)
		c.written = c.pending.next
		p.mu.Unlock()
		if _, err := c.nc.Write(buf); err != nil {
			p.lose(c, err)
			return
		}
		p.mu.Lock()
	}
}

// read takes replies until the connection ends.
func (c *conn) read() {
	var in inbox
	var f finisher
	for {
		frames, err := in.fill(c.nc)
		if frames {
			if serr := c.pool.settle(c, &in, &f); serr != nil {
				err = serr
			}
		}
		if err != nil {
			c.pool.lose(c, err)
			return
		}
	}
}
