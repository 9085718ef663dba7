package hsm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// Each fault happens on the first connection of the only worker; the second
// connection is well. So the calls must be answered, rightly, by the second.
func TestBrokenConnectionIsReplaced(t *testing.T) {
	faults := map[string]func(c *peerConn, items []frame.Item) error{
		"hangs up": func(*peerConn, []frame.Item) error { return errHangUp },
		"closes in the middle of a frame": func(c *peerConn, items []frame.Item) error {
			r := rightReply(&items[0])
			b, start := frame.Begin(nil)
			b = frame.AppendReply(b, &r)
			frame.End(b, start, frame.TypeReplies, 1)
			_ = c.write(b[:len(b)-1])
			return errHangUp
		},
		"garbage": func(c *peerConn, _ []frame.Item) error {
			return c.write(bytes.Repeat([]byte{0xA5}, 4096))
		},
		"id that was never issued": func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items[:1], func(it *frame.Item) frame.Reply {
				return frame.Reply{ID: it.ID + 1<<40, Status: frame.StatusMatched}
			})
		},
		"id zero": func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items[:1], func(*frame.Item) frame.Reply {
				return frame.Reply{Status: frame.StatusMatched}
			})
		},
		"unknown status": func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items, statusReply(frame.StatusMatched^1))
		},
		"response cryptogram nobody asked for": func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items, func(it *frame.Item) frame.Reply {
				r := frame.Reply{ID: it.ID, Status: frame.StatusMatched, ARPCBytes: 8}
				if it.Request.Response.Kind == 1 {
					r.ARPCBytes = 0
				}
				return r
			})
		},
		"client's frame type": func(c *peerConn, _ []frame.Item) error { return c.write(frame.AppendHello(nil)) },
		"second welcome":      func(c *peerConn, _ []frame.Item) error { return c.write(frame.AppendWelcome(nil, &frame.Welcome{})) },
		"subject nobody asked for": func(c *peerConn, _ []frame.Item) error {
			r := frame.SubjectsReply{ID: 7, Status: frame.StatusTokenFailure}
			return c.write(frame.AppendSubjects(nil, &r))
		},
		"subject of no key": func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items, func(it *frame.Item) frame.Reply {
				r := rightReply(it)
				r.Subjects = [2]Subject{subjectAt(1, it)}
				return r
			})
		},
		"canary nobody asked for": func(c *peerConn, _ []frame.Item) error {
			return c.write(frame.AppendHealthy(nil, 7, frame.StatusMatched))
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			dir := socketDir(t)
			startPeer(t, dir, "worker-0.sock", func(p *peer) {
				p.handle = func(c *peerConn, items []frame.Item) error {
					if c.id == 1 {
						return fault(c, items)
					}
					return c.answerAll(items)
				}
			})
			p := startPool(t, dir, nil)
			waitOpen(t, p, 1)
			l := newLedger()
			calls := l.calls(t, 30, 5*time.Second)
			p.Submit(calls...)
			l.wait(t, calls)
			for i, c := range calls {
				if checkVerdict(t, i, c); c.Answer > Mismatched {
					t.Errorf("call %d: answer %v", i, c.Answer)
				}
			}
			if s := p.Stats(); s.ConnectionsLost == 0 || s.Retries == 0 {
				t.Errorf("the connection was not given up: %+v", s)
			}
		})
	}
}

func TestHalfFramesAreJoined(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			b, start := frame.Begin(nil)
			for i := range items {
				r := rightReply(&items[i])
				b = frame.AppendReply(b, &r)
			}
			frame.End(b, start, frame.TypeReplies, len(items))
			for ; len(b) > 0; b = b[min(7, len(b)):] {
				if err := c.write(b[:min(7, len(b))]); err != nil {
					return err
				}
				time.Sleep(50 * time.Microsecond)
			}
			return nil
		}
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	l := newLedger()
	calls := l.calls(t, 300, 10*time.Second)
	p.Submit(calls...)
	l.wait(t, calls)
	for i, c := range calls {
		if checkVerdict(t, i, c); c.Answer > Mismatched {
			t.Fatalf("call %d: answer %v", i, c.Answer)
		}
	}
	if s := p.Stats(); s.ConnectionsLost != 0 {
		t.Errorf("a connection was lost: %+v", s)
	}
}

// A request that kills workers must not kill them all.
func TestCallRunsOnTwoWorkersAtMost(t *testing.T) {
	dir := socketDir(t)
	var seen atomic.Int64
	kill := func(p *peer) {
		p.handle = func(_ *peerConn, items []frame.Item) error {
			seen.Add(int64(len(items)))
			return errHangUp
		}
	}
	for _, name := range []string{"worker-0.sock", "worker-1.sock", "worker-2.sock"} {
		startPeer(t, dir, name, kill)
	}
	p := startPool(t, dir, nil)
	waitOpen(t, p, 3)
	l := newLedger()
	calls := l.calls(t, 1, 5*time.Second)
	p.Submit(calls...)
	l.wait(t, calls)
	wantAll(t, calls, NoWorker)
	if seen.Load() != 2 {
		t.Errorf("the call was seen %d times", seen.Load())
	}
}

func TestTokenFailureIsTriedElsewhere(t *testing.T) {
	fails := func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items, statusReply(frame.StatusTokenFailure))
		}
	}
	unknown := func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items, statusReply(frame.StatusKeyUnknown))
		}
	}
	unproven := func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			return c.replyWith(items, statusReply(frame.StatusKeyUnproven))
		}
	}
	for _, tc := range []struct {
		name    string
		first   func(*peer)
		second  func(*peer)
		alone   bool
		want    Answer
		retried uint64
	}{
		{"second is well", fails, nil, false, Matched, 1},
		{"second fails too", fails, fails, false, TokenFailure, 1},
		{"no second", fails, nil, true, TokenFailure, 0},
		{"key is known to the second", unknown, nil, false, Matched, 1},
		{"key is known to nobody", unknown, unknown, false, KeyUnknown, 1},
		{"key is proved by the second", unproven, nil, false, Matched, 1},
		{"key is proved by nobody", unproven, unproven, false, KeyUnproven, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := socketDir(t)
			startPeer(t, dir, "worker-0.sock", tc.first)
			p := startPool(t, dir, nil)
			waitOpen(t, p, 1) // the first in the list gets the call
			if !tc.alone {
				startPeer(t, dir, "worker-1.sock", tc.second)
				waitOpen(t, p, 2)
			}
			l := newLedger()
			calls := l.calls(t, 1, 5*time.Second)
			p.Submit(calls...)
			l.wait(t, calls)
			wantAll(t, calls, tc.want)
			if got := p.Stats().Retries; got != tc.retried {
				t.Errorf("%d retries, want %d", got, tc.retried)
			}
		})
	}
}

func TestStatusesKeepTheirMeaning(t *testing.T) {
	for status, want := range map[frame.Status]Answer{
		frame.StatusMatched: Matched, frame.StatusMismatched: Mismatched, frame.StatusKeyUnknown: KeyUnknown,
		frame.StatusKeyUnproven: KeyUnproven, frame.StatusKeyInactive: KeyInactive, frame.StatusNotBound: NotBound,
		frame.StatusMalformed: Malformed, frame.StatusGuessLimit: GuessLimit, frame.StatusExpired: DeadlineExceeded,
		frame.StatusTokenFailure: TokenFailure, 0: TokenFailure, frame.StatusMatched ^ 1: TokenFailure,
	} {
		if got := answerTo(status); got != want {
			t.Errorf("status %v is answered %v, want %v", status, got, want)
		}
	}
}

func TestLateReplyIsDropped(t *testing.T) {
	dir := socketDir(t)
	release := make(chan struct{})
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			<-release
			return c.answerAll(items)
		}
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	l := newLedger()
	calls := l.calls(t, 20, 30*time.Millisecond)
	begin := time.Now()
	p.Submit(calls...)
	l.wait(t, calls)
	wantAll(t, calls, DeadlineExceeded)
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("a deadline of 30 ms took %v", d)
	}
	close(release)
	eventually(t, "late replies", func() bool { return p.Stats().LateReplies == 20 })
	wantAll(t, calls, DeadlineExceeded)
	if s := p.Stats(); s.Connections != 1 || s.ConnectionsLost != 0 {
		t.Errorf("late replies cost the connection: %+v", s)
	}
}

func TestCallsWaitForAWorker(t *testing.T) {
	t.Run("it comes", func(t *testing.T) {
		dir := socketDir(t)
		p := startPool(t, dir, nil)
		l := newLedger()
		calls := l.calls(t, 100, 5*time.Second)
		p.Submit(calls...)
		if s := p.Stats(); s.Waiting != 100 {
			t.Errorf("%d calls wait", s.Waiting)
		}
		startPeer(t, dir, "worker-0.sock", nil)
		l.wait(t, calls)
		for i, c := range calls {
			if checkVerdict(t, i, c); c.Answer > Mismatched {
				t.Errorf("call %d: answer %v", i, c.Answer)
			}
		}
	})
	t.Run("it does not come", func(t *testing.T) {
		p := startPool(t, socketDir(t), func(o *Options) { o.NoWorkerGrace = 100 * time.Millisecond })
		l := newLedger()
		calls := l.calls(t, 100, 5*time.Second)
		for _, c := range calls[:50] {
			c.Deadline = time.Now().Add(20 * time.Millisecond)
		}
		p.Submit(calls...)
		l.wait(t, calls)
		wantAll(t, calls[:50], DeadlineExceeded)
		wantAll(t, calls[50:], NoWorker)
		late := newLedger()
		again := late.calls(t, 1, time.Hour)
		p.Submit(again...)
		late.wait(t, again)
		wantAll(t, again, NoWorker)
	})
}

func TestGoAwayLosesNothing(t *testing.T) {
	dir := socketDir(t)
	release := make(chan struct{})
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			if c.id == 1 {
				if err := c.write(frame.AppendGoAway(nil)); err != nil {
					return err
				}
				<-release
			}
			return c.answerAll(items)
		}
	})
	p := startPool(t, dir, nil)
	waitOpen(t, p, 1)
	l := newLedger()
	old := l.calls(t, 10, 10*time.Second)
	p.Submit(old...)
	eventually(t, "a second connection beside the first", func() bool {
		s := p.Stats()
		return s.Connections == 1 && s.Draining == 1 && s.GoAways == 1
	})
	fresh := newLedger()
	calls := fresh.calls(t, 10, 10*time.Second)
	p.Submit(calls...)
	fresh.wait(t, calls) // while the old ones are still out
	close(release)
	l.wait(t, old)
	for i, c := range append(old, calls...) {
		if checkVerdict(t, i, c); c.Answer > Mismatched {
			t.Errorf("call %d: answer %v", i, c.Answer)
		}
	}
	eventually(t, "the old connection to close", func() bool { return p.Stats().Draining == 0 })
	if s := p.Stats(); s.ConnectionsLost != 0 || s.Retries != 0 {
		t.Errorf("going away was a loss: %+v", s)
	}
}

func TestStalledWorkerGetsNoNewCalls(t *testing.T) {
	dir := socketDir(t)
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(*peerConn, []frame.Item) error { return nil }
	})
	p := startPool(t, dir, func(o *Options) { o.StallAfter = 20 * time.Millisecond })
	waitOpen(t, p, 1)
	l := newLedger()
	stuck := l.calls(t, 1, 10*time.Second)
	p.Submit(stuck...)
	startPeer(t, dir, "worker-1.sock", nil)
	waitOpen(t, p, 2)
	eventually(t, "the stall to be noticed", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.conns[0].stalled
	})
	fresh := newLedger()
	calls := fresh.calls(t, 50, 5*time.Second) // more than are out on the stalled one
	p.Submit(calls...)
	fresh.wait(t, calls)
	for i, c := range calls {
		if c.Answer > Mismatched {
			t.Fatalf("call %d: answer %v", i, c.Answer)
		}
	}
}

// A worker that does not read makes nobody wait and costs bounded memory.
func TestWorkerThatDoesNotRead(t *testing.T) {
	dir := socketDir(t)
	block := make(chan struct{})
	startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(*peerConn, []frame.Item) error { <-block; return nil }
	})
	p := startPool(t, dir, func(o *Options) { o.MaxInFlight = 30000 })
	waitOpen(t, p, 1)
	l := newLedger()
	calls := l.calls(t, 30000, 2*time.Second)
	begin := time.Now()
	p.Submit(calls...)
	if d := time.Since(begin); d > 1500*time.Millisecond {
		t.Errorf("Submit took %v", d)
	}
	p.mu.Lock()
	unsent := len(p.conns[0].out.bytes)
	p.mu.Unlock()
	if s := p.Stats(); s.Waiting == 0 || s.InFlight != 30000 {
		t.Errorf("not the queue that was meant: %+v", s)
	}
	if unsent > maxUnsentBytes+frame.HeaderBytes+frame.MaxItemBytes {
		t.Errorf("%d bytes are queued for one connection", unsent)
	}
	l.wait(t, calls)
	wantAll(t, calls, DeadlineExceeded)
	close(block)
}

// The supervisor's listener accepts for a dead worker: nobody answers Hello.
func TestSilentHandshakeTimesOut(t *testing.T) {
	dir := socketDir(t)
	var silent atomic.Bool
	silent.Store(true)
	peer := startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.welcome = func(b []byte) []byte {
			if silent.Load() {
				return nil
			}
			return b
		}
	})
	p := startPool(t, dir, func(o *Options) { o.ConnectTimeout = 20 * time.Millisecond })
	eventually(t, "timeouts", func() bool { return p.Stats().HandshakeFailures > 1 })
	if p.Ready() {
		t.Error("ready without a handshake")
	}
	silent.Store(false)
	waitOpen(t, p, 1)
	if peer.accepted.Load() < 3 {
		t.Error("not dialed again")
	}
}

func TestBadHandshakeIsRefused(t *testing.T) {
	table := func(n uint32, entries ...frame.KeyEntry) []byte {
		return frame.AppendKeyTable(frame.AppendWelcome(nil, &frame.Welcome{Keys: n}), entries)
	}
	good := testTable()[0]
	nameless, idless, stateless, useless := good, good, good, good
	nameless.Set, idless.ID, stateless.State, useless.Use = "", keys.ID{}, 0, 0
	subjects, others := subjectTable()[2], subjectTable()[3]
	others.Set = "others"
	for name, answer := range map[string][]byte{
		"garbage":         bytes.Repeat([]byte{0x5A}, 100),
		"table first":     frame.AppendKeyTable(nil, testTable()),
		"goaway":          frame.AppendGoAway(nil),
		"more keys":       table(1, testTable()...),
		"too many keys":   table(frame.MaxKeys + 1),
		"hostile count":   table(1<<32 - 1),
		"one key twice":   table(2, good, good),
		"without a name":  table(1, nameless),
		"without a use":   table(1, useless),
		"subjects twice":  table(2, subjects, others),
		"without an id":   table(1, idless),
		"without a state": table(1, stateless),
		"no table":        append(table(1), frame.AppendGoAway(nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := socketDir(t)
			startPeer(t, dir, "worker-0.sock", func(p *peer) { p.welcome = func([]byte) []byte { return answer } })
			p := startPool(t, dir, func(o *Options) { o.ConnectTimeout = 50 * time.Millisecond })
			eventually(t, "a refusal", func() bool { return p.Stats().HandshakeFailures > 0 })
			if s := p.Stats(); s.Connects != 0 {
				t.Error("the connection was used")
			}
		})
	}
}

func TestHealth(t *testing.T) {
	ctx := context.Background()
	dir := socketDir(t)
	p := startPool(t, dir, func(o *Options) { o.HealthTimeout = 50 * time.Millisecond })
	if err := p.Health(ctx); !errors.Is(err, ErrNoWorker) {
		t.Errorf("without workers: %v", err)
	}
	startPeer(t, dir, "worker-0.sock", func(p *peer) { p.canary = frame.StatusKeyUnproven })
	waitOpen(t, p, 1)
	if err := p.Health(ctx); err == nil || !strings.Contains(err.Error(), "key_unproven") {
		t.Errorf("with a worker whose key is wrong: %v", err)
	}
	startPeer(t, dir, "worker-1.sock", nil)
	waitOpen(t, p, 2)
	for range 4 {
		if err := p.Health(ctx); err != nil {
			t.Errorf("with one good worker: %v", err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := p.Health(cancelled); err == nil {
		t.Error("a cancelled context is healthy")
	}
}

func TestHealthOfAStuckOrDyingWorker(t *testing.T) {
	dir := socketDir(t)
	block := make(chan struct{})
	peer := startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(*peerConn, []frame.Item) error { <-block; return nil }
	})
	p := startPool(t, dir, func(o *Options) { o.HealthTimeout = 100 * time.Millisecond })
	waitOpen(t, p, 1)
	l := newLedger()
	calls := l.calls(t, 1, 10*time.Second)
	p.Submit(calls...)
	if err := p.Health(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stuck: %v", err)
	}
	time.AfterFunc(20*time.Millisecond, peer.killAll)
	if err := p.Health(context.Background()); err == nil {
		t.Error("dying: healthy")
	}
	close(block)
	p.Close()
	l.wait(t, calls)
}

// Nothing of a request may reach a log, whatever happens to its connection.
func TestLogsHaveNoRequestData(t *testing.T) {
	dir := socketDir(t)
	var out lockedBuffer
	peer := startPeer(t, dir, "worker-0.sock", func(p *peer) {
		p.handle = func(c *peerConn, items []frame.Item) error {
			if c.id == 1 {
				return c.write(bytes.Repeat([]byte{1}, 64))
			}
			return c.answerAll(items)
		}
	})
	p := startPool(t, dir, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	waitOpen(t, p, 1)
	l := newLedger()
	calls := l.calls(t, 100, 5*time.Second)
	p.Submit(calls...)
	l.wait(t, calls)
	peer.each(func(c *peerConn) { _ = c.write(frame.AppendGoAway(nil)) })
	eventually(t, "going away", func() bool { return p.Stats().GoAways == 1 })
	p.Close()
	log := out.String()
	if strings.Contains(log, "4761739001010010") {
		t.Error("a PAN is in the log")
	}
	if n := strings.Count(log, "\n"); n < 3 || n > 20 {
		t.Errorf("%d log records for two connections and 100 calls", n)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
