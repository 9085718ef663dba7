package hsm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketDir is short: a socket's path has at most 108 bytes.
func socketDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "pool")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func startPool(tb testing.TB, dir string, change func(*Options)) *Pool {
	tb.Helper()
	o := Options{SocketDir: dir}
	if change != nil {
		change(&o)
	}
	p, err := NewPool(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}

func eventually(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if cond() {
			return
		}
	}
	tb.Fatalf("not within 5 s: %s", what)
}

func waitOpen(tb testing.TB, p *Pool, n int) {
	tb.Helper()
	eventually(tb, "connections", func() bool { return p.Stats().Connections == n })
}

// A ledger is a sink that counts how often each call came back.
type ledger struct {
	mu    sync.Mutex
	times map[*Call]int
	left  sync.WaitGroup
}

func newLedger() *ledger { return &ledger{times: make(map[*Call]int)} }

func (l *ledger) Completed(calls []*Call) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range calls {
		if l.times[c]++; l.times[c] == 1 {
			l.left.Done()
		}
	}
}

// calls makes n calls, the i-th with i in its cryptogram.
func (l *ledger) calls(tb testing.TB, n int, timeout time.Duration) []*Call {
	tb.Helper()
	pan, err := cryptogram.ParsePAN("4761739001010010")
	if err != nil {
		tb.Fatal(err)
	}
	calls := make([]*Call, n)
	for i := range calls {
		c := &Call{Key: keys.ID{1}, Sink: l, Deadline: time.Now().Add(timeout)}
		c.Request.Profile, c.Request.KeyOption, c.Request.PAN = 1, cryptogram.OptionA, pan
		c.Request.IAD.Len = 7
		binary.LittleEndian.PutUint64(c.Request.Cryptogram[:], uint64(i))
		c.Request.Response.Kind = cryptogram.ResponseKind(i % 3)
		calls[i] = c
	}
	l.left.Add(n)
	return calls
}

// wait waits for all calls and fails if one has come back twice.
func (l *ledger) wait(tb testing.TB, calls []*Call) {
	tb.Helper()
	done := make(chan struct{})
	go func() { l.left.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		tb.Fatal("calls are missing")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range calls {
		if l.times[c] != 1 {
			tb.Fatalf("call %d came back %d times", i, l.times[c])
		}
	}
}

// checkVerdict fails if a call was answered with another verdict than its own.
// Any answer that says nothing about the cryptogram passes.
func checkVerdict(tb testing.TB, i int, c *Call) {
	tb.Helper()
	want := rightReply(&frame.Item{Request: c.Request})
	switch {
	case c.Answer == 0 || c.Answer >= numAnswers:
		tb.Errorf("call %d: answer %v", i, c.Answer)
	case c.Answer > Mismatched && (c.ARPCBytes != 0 || c.ARPC != [8]byte{}):
		tb.Errorf("call %d: ARPC beside %v", i, c.Answer)
	case c.Answer <= Mismatched && (c.Answer != answerTo(want.Status) || c.ARPC != want.ARPC || c.ARPCBytes != want.ARPCBytes):
		tb.Errorf("call %d: answered with another call's verdict", i)
	}
}

func wantAll(tb testing.TB, calls []*Call, want Answer) {
	tb.Helper()
	for i, c := range calls {
		if c.Answer != want {
			tb.Fatalf("call %d: answer %v, want %v", i, c.Answer, want)
		}
	}
}

func TestEveryCallGetsItsOwnVerdict(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", nil)
	startPeer(t, dir, "worker-1.sock", nil)
	p := startPool(t, dir, nil)
	waitOpen(t, p, 2)
	l := newLedger()
	calls := l.calls(t, 5000, 10*time.Second)
	for i := 0; i < len(calls); i += 100 {
		p.Submit(calls[i : i+100]...)
	}
	l.wait(t, calls)
	for i, c := range calls {
		if checkVerdict(t, i, c); c.Answer > Mismatched {
			t.Errorf("call %d: answer %v", i, c.Answer)
		}
	}
	s := p.Stats()
	if s.InFlight != 0 || s.Submitted != 5000 || s.Answers[Matched]+s.Answers[Mismatched] != 5000 {
		t.Errorf("stats do not add up: %+v", s)
	}
}

func TestBothWorkersGetWork(t *testing.T) {
	dir := socketDir(t)
	a := startPeer(t, dir, "worker-0.sock", nil)
	b := startPeer(t, dir, "worker-1.sock", nil)
	p := startPool(t, dir, nil)
	waitOpen(t, p, 2)
	l := newLedger()
	calls := l.calls(t, 100, 10*time.Second)
	p.Submit(calls...)
	l.wait(t, calls)
	if a.items.Load() != 50 || b.items.Load() != 50 {
		t.Errorf("100 calls at once went %d to %d", a.items.Load(), b.items.Load())
	}
}

func TestKeyTable(t *testing.T) {
	dir := socketDir(t)
	peer := startPeer(t, dir, "worker-0.sock", nil)
	p := startPool(t, dir, nil)
	if _, ok := p.Key("visa-demo", 1); ok && !p.Ready() {
		t.Error("a key is known before any worker")
	}
	waitOpen(t, p, 1)
	k, ok := p.Key("visa-demo", 1)
	if !ok || k.ID != (keys.ID{1}) || k.State != keys.Active || !k.Serves(2) || k.Serves(3) {
		t.Errorf("key is %+v, %v", k, ok)
	}
	for _, miss := range []keyName{{"visa-demo", 3}, {"visa", 1}, {"", 0}} {
		if _, ok := p.Key(miss.set, miss.version); ok {
			t.Errorf("%v is known", miss)
		}
	}
	peer.stop()
	waitOpen(t, p, 0)
	if _, ok := p.Key("visa-demo", 1); !ok || p.Ready() {
		t.Error("a key became unknown with the last worker")
	}
}

func TestNewestKeyTableWins(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", nil)
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	startPeer(t, dir, "worker-1.sock", func(p *peer) { p.table[0].State = keys.Suspended })
	waitOpen(t, p, 2)
	if k, _ := p.Key("visa-demo", 1); k.State != keys.Suspended {
		t.Errorf("state is %d, want suspended", k.State)
	}
}

func TestForeignUserIsRefused(t *testing.T) {
	dir := socketDir(t)
	peer := startPeer(t, dir, "worker-0.sock", nil)
	other := uint32(os.Getuid() + 1)
	p := startPool(t, dir, func(o *Options) { o.PeerUID = &other })
	eventually(t, "a refusal", func() bool { return p.Stats().HandshakeFailures > 2 })
	if s := p.Stats(); s.Connects != 0 || p.Ready() {
		t.Errorf("a socket of another user was used: %+v", s)
	}
	if peer.accepted.Load() == 0 {
		t.Error("nobody dialed")
	}
}

func TestOnlyWorkerSocketsCount(t *testing.T) {
	for name, want := range map[string]bool{
		"worker-0.sock": true, "worker-17.sock": true, "worker-.sock": false, "worker-01.sock": false,
		"worker--1.sock": false, "worker-+1.sock": false, "worker-0.sock~": false, "supervisor.sock": false,
		"worker-99999999.sock": false, "xworker-0.sock": false, "worker-0": false,
	} {
		if isWorkerSocket(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"no directory":  {},
		"negative":      {SocketDir: "x", MaxInFlight: -1},
		"negative time": {SocketDir: "x", StallAfter: -1},
	} {
		if p, err := NewPool(o); err == nil {
			p.Close()
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSocketsAppearLater(t *testing.T) {
	dir := filepath.Join(socketDir(t), "later")
	p := startPool(t, dir, nil)
	if p.Ready() {
		t.Fatal("ready without a directory")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first := startPeer(t, dir, "worker-0.sock", nil)
	waitOpen(t, p, 1)
	first.stop() // unlinks the socket
	waitOpen(t, p, 0)
	eventually(t, "the socket to be forgotten", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.members) == 0
	})
	startPeer(t, dir, "worker-0.sock", nil)
	waitOpen(t, p, 1)
}

func TestRefusals(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(*peerConn, []frame.Item) error { return nil } // never answers
	})
	p := startPool(t, dir, func(o *Options) { o.MaxInFlight = 10 })
	waitOpen(t, p, 1)

	t.Run("past deadline", func(t *testing.T) {
		l := newLedger()
		calls := l.calls(t, 3, -time.Second)
		calls[1].Deadline = time.Time{}
		p.Submit(calls...)
		l.wait(t, calls)
		wantAll(t, calls, DeadlineExceeded)
	})
	t.Run("not encodable", func(t *testing.T) {
		l := newLedger()
		calls := l.calls(t, 5, time.Second)
		calls[0].Request.PAN = cryptogram.PAN{}
		calls[1].Request.IAD.Len = 33
		calls[2].Request.CVR.Len = 7
		calls[3].Request.Response = cryptogram.Response{Kind: cryptogram.CardStatusUpdate, PADLen: 9}
		calls[4].Request.Response.Kind = 3
		p.Submit(calls...)
		l.wait(t, calls)
		wantAll(t, calls, Malformed)
		if s := p.Stats(); s.ConnectionsLost != 0 {
			t.Error("a bad request cost a connection")
		}
	})
	t.Run("too many", func(t *testing.T) {
		l := newLedger()
		calls := l.calls(t, 25, 300*time.Millisecond)
		p.Submit(calls...)
		l.wait(t, calls)
		wantAll(t, calls[:10], DeadlineExceeded)
		wantAll(t, calls[10:], Overloaded)
	})
	t.Run("closed", func(t *testing.T) {
		p.Close()
		l := newLedger()
		calls := l.calls(t, 3, time.Second)
		p.Submit(calls...)
		l.wait(t, calls)
		wantAll(t, calls, NoWorker)
	})
}

func TestCloseAnswersEverything(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(*peerConn, []frame.Item) error { return nil }
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	l := newLedger()
	calls := l.calls(t, 1000, 10*time.Second)
	p.Submit(calls...)
	p.Close()
	l.wait(t, calls)
	wantAll(t, calls, NoWorker)
	p.Close()
}

func TestDeadlineOnTheWireIsMonotonicTime(t *testing.T) {
	k, err := newClock()
	if err != nil {
		t.Fatal(err)
	}
	now, nanos := k.now()
	other, err := newClock()
	if err != nil {
		t.Fatal(err)
	}
	if d := other.nanos() - nanos; d < 0 || d > int64(time.Second) {
		t.Errorf("two readings are %d ns apart", d)
	}
	for _, d := range []time.Duration{0, -time.Hour, time.Millisecond, time.Hour} {
		got := wireDeadline(now.Add(d), now, nanos) - nanos
		if want := max(int64(d), -1); got != want {
			t.Errorf("deadline in %v: %d ns", d, got)
		}
		wall := wireDeadline(now.Add(d).Round(0), now.Round(0), nanos) - nanos
		if want := max(int64(d), -1); wall != want {
			t.Errorf("wall clock deadline in %v: %d ns", d, wall)
		}
	}
	if got := wireDeadline(now.AddDate(400, 0, 0), now, nanos); got < nanos {
		t.Error("a far deadline overflows")
	}
}

// Each item names the caller of its own call, or none: the pool reuses one item.
func TestCallerReachesTheWorker(t *testing.T) {
	dir := socketDir(t)
	var mu sync.Mutex
	got := make(map[uint64]uint32) // caller by the number in the cryptogram
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			mu.Lock()
			for i := range items {
				got[binary.LittleEndian.Uint64(items[i].Request.Cryptogram[:])] = items[i].Caller
			}
			mu.Unlock()
			return c.answerAll(items)
		}
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	l := newLedger()
	callers := []uint32{7, 0, 1<<32 - 1, 0}
	calls := l.calls(t, len(callers), 5*time.Second)
	for i, c := range calls {
		c.Caller = callers[i]
	}
	p.Submit(calls...)
	l.wait(t, calls)
	for i, want := range callers {
		if got[uint64(i)] != want {
			t.Errorf("call %d: caller %d, want %d", i, got[uint64(i)], want)
		}
	}
}
