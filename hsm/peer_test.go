package hsm

import (
	"encoding/binary"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// A peer speaks the worker's side of the protocol without a token, for faults
// that a real worker cannot be made to show and for benchmarks of the pool. Its
// answer is a function of the request, so a test knows which one is right.
type peer struct {
	tb      testing.TB
	name    string
	ln      *net.UnixListener
	table   []frame.KeyEntry
	welcome func(b []byte) []byte // nil: the proper handshake answer
	handle  func(c *peerConn, items []frame.Item) error
	canary  frame.Status
	subject func(id uint64, in *keys.SubjectInput) (answer []byte) // nil: none is answered

	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[*peerConn]struct{}
	accepted atomic.Int64
	items    atomic.Int64
	epochs   atomic.Uint64
}

type peerConn struct {
	peer *peer
	nc   *net.UnixConn
	out  []byte
	one  sync.Mutex // around writes of the test
	id   int64      // 1 for the first connection
}

var errHangUp = errors.New("the test hangs up")

// startPeer listens on worker-<n>.sock; change runs before the first accept.
func startPeer(tb testing.TB, dir, name string, change func(*peer)) *peer {
	tb.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
	if err != nil {
		tb.Fatal(err)
	}
	p := &peer{
		tb: tb, name: name, ln: ln, table: testTable(), canary: frame.StatusMatched,
		handle: (*peerConn).answerAll, conns: make(map[*peerConn]struct{}),
	}
	if change != nil {
		change(p)
	}
	p.wg.Go(p.accept)
	tb.Cleanup(p.stop)
	return p
}

func testTable() []frame.KeyEntry {
	return []frame.KeyEntry{
		{ID: keys.ID{1}, Set: "visa-demo", Version: 1, State: keys.Active, Use: keys.UseIssuerAC, Profiles: []cryptogram.ProfileID{1, 2}},
		{ID: keys.ID{2}, Set: "visa-demo", Version: 2, State: keys.PreActive, Use: keys.UseIssuerAC, Profiles: []cryptogram.ProfileID{2}},
	}
}

func (p *peer) accept() {
	for {
		nc, err := p.ln.AcceptUnix()
		if err != nil {
			return
		}
		c := &peerConn{peer: p, nc: nc, id: p.accepted.Add(1)}
		p.mu.Lock()
		p.conns[c] = struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { c.serve() })
	}
}

// killAll ends all connections as the death of a worker does.
func (p *peer) killAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.nc.Close()
	}
}

// each runs f on all connections.
func (p *peer) each(f func(*peerConn)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		f(c)
	}
}

func (p *peer) stop() {
	_ = p.ln.Close()
	p.killAll()
	p.wg.Wait()
}

func (c *peerConn) serve() {
	defer func() {
		c.peer.mu.Lock()
		delete(c.peer.conns, c)
		c.peer.mu.Unlock()
		_ = c.nc.Close()
	}()
	if !c.greet() {
		return
	}
	items := make([]frame.Item, frame.MaxBatch)
	buf := make([]byte, 256<<10)
	filled := 0
	for {
		n, err := c.nc.Read(buf[filled:])
		if err != nil {
			return
		}
		filled += n
		used, ok := c.frames(buf[:filled], items)
		if !ok {
			return
		}
		filled = copy(buf, buf[used:filled])
	}
}

func (c *peerConn) greet() bool {
	h, b, err := frame.Read(c.nc, nil)
	if err != nil || h.Type != frame.TypeHello || frame.DecodeHello(b) != nil {
		return false
	}
	var epoch [frame.EpochBytes]byte
	binary.BigEndian.PutUint64(epoch[:], c.peer.epochs.Load())
	copy(epoch[8:], c.peer.name)
	out := frame.AppendWelcome(nil, &frame.Welcome{Epoch: epoch, Keys: uint32(len(c.peer.table))})
	out = frame.AppendKeyTable(out, c.peer.table)
	if c.peer.welcome != nil {
		out = c.peer.welcome(out)
	}
	_, err = c.nc.Write(out)
	return err == nil
}

func (c *peerConn) frames(b []byte, items []frame.Item) (used int, ok bool) {
	for len(b)-used >= frame.HeaderBytes {
		h, err := frame.ParseHeader(b[used:])
		if err != nil {
			c.peer.tb.Errorf("peer: header: %v", err)
			return 0, false
		}
		end := used + frame.HeaderBytes + int(h.PayloadBytes)
		if len(b) < end {
			break
		}
		if !c.frame(h, b[used+frame.HeaderBytes:end], items) {
			return 0, false
		}
		used = end
	}
	return used, true
}

func (c *peerConn) frame(h frame.Header, b []byte, items []frame.Item) bool {
	if h.Type == frame.TypeHealth {
		id, err := frame.DecodeHealth(b)
		if err == nil {
			err = c.write(frame.AppendHealthy(nil, id, c.peer.canary))
		}
		return err == nil
	}
	if h.Type == frame.TypeSubject {
		id, pan, psn, err := frame.DecodeSubject(b)
		if err != nil || c.peer.subject == nil {
			return err == nil
		}
		in := keys.NewSubjectInput(&pan, psn)
		return c.write(c.peer.subject(id, &in)) == nil
	}
	if h.Type != frame.TypeVerify {
		c.peer.tb.Errorf("peer: frame of type %d", h.Type)
		return false
	}
	for i := range int(h.Count) {
		rest, err := frame.DecodeItem(b, &items[i])
		if err != nil {
			c.peer.tb.Errorf("peer: item: %v", err)
			return false
		}
		b = rest
	}
	c.peer.items.Add(int64(h.Count))
	return c.peer.handle(c, items[:h.Count]) == nil
}

func (c *peerConn) write(b []byte) error {
	c.one.Lock()
	defer c.one.Unlock()
	_, err := c.nc.Write(b)
	return err
}

// answerAll is what a healthy worker does.
func (c *peerConn) answerAll(items []frame.Item) error {
	return c.replyWith(items, rightReply)
}

func (c *peerConn) replyWith(items []frame.Item, reply func(*frame.Item) frame.Reply) error {
	var start int
	c.out, start = frame.Begin(c.out[:0])
	for i := range items {
		r := reply(&items[i])
		c.out = frame.AppendReply(c.out, &r)
	}
	frame.End(c.out, start, frame.TypeReplies, len(items))
	return c.write(c.out)
}

// rightReply says matched if the first byte of the cryptogram is even, and
// answers with the rest of the cryptogram.
func rightReply(it *frame.Item) frame.Reply {
	r := frame.Reply{ID: it.ID, Status: frame.StatusMismatched}
	if it.Request.Cryptogram[0]%2 == 1 {
		return r
	}
	r.Status = frame.StatusMatched
	switch it.Request.Response.Kind {
	case cryptogram.ResponseCode:
		r.ARPCBytes = 8
	case cryptogram.CardStatusUpdate:
		r.ARPCBytes = 4
	}
	copy(r.ARPC[:r.ARPCBytes], it.Request.Cryptogram[:])
	return r
}

func statusReply(s frame.Status) func(*frame.Item) frame.Reply {
	return func(it *frame.Item) frame.Reply { return frame.Reply{ID: it.ID, Status: s} }
}
