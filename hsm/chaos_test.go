package hsm

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
)

// chaosPeer answers rightly, but in random order, sometimes late, sometimes
// with a failure of the token, and now and then ends the connection in some
// rude way.
func chaosPeer(p *peer) {
	p.handle = func(c *peerConn, items []frame.Item) error {
		switch n := rand.IntN(1000); {
		case n == 0:
			return errHangUp
		case n == 1:
			_ = c.write([]byte{1, 2, 3})
			return errHangUp
		case n == 2:
			return c.write(frame.AppendHello(nil))
		case n == 3:
			return nil // swallowed: only the deadline ends these calls
		case n < 8:
			_ = c.write(frame.AppendGoAway(nil))
		case n < 20:
			return c.replyWith(items, statusReply(frame.StatusTokenFailure))
		case n < 40:
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		}
		rand.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		half := len(items) / 2
		if half > 0 {
			if err := c.answerAll(items[:half]); err != nil {
				return err
			}
		}
		return c.answerAll(items[half:])
	}
}

// Every call comes back exactly once and never with the verdict of another
// call, while connections break in every way, workers stall, deadlines pass
// and, at the end, the pool is closed under load.
func TestExactlyOnceUnderChaos(t *testing.T) {
	const (
		submitters = 6
		perBatch   = 40
		length     = 3 * time.Second
	)
	dir := socketDir(t)
	var peers []*peer
	for _, name := range []string{"worker-0.sock", "worker-1.sock", "worker-2.sock"} {
		peers = append(peers, startPeer(t, dir, name, chaosPeer))
	}
	p := startPool(t, dir, func(o *Options) { o.MaxInFlight = 2000; o.StallAfter = 15 * time.Millisecond })
	waitOpen(t, p, 3)

	var stop atomic.Bool
	var killer, submitting sync.WaitGroup
	killer.Go(func() {
		for !stop.Load() {
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			peers[rand.IntN(len(peers))].killAll()
		}
	})
	var total atomic.Int64
	ledgers := make([]*ledger, submitters)
	batches := make([][][]*Call, submitters)
	for i := range submitters {
		ledgers[i] = newLedger()
		submitting.Go(func() {
			for !stop.Load() {
				timeout := time.Duration(rand.IntN(300)-2) * time.Millisecond
				calls := ledgers[i].calls(t, 1+rand.IntN(perBatch), timeout)
				batches[i] = append(batches[i], calls)
				total.Add(int64(len(calls)))
				p.Submit(calls...)
				time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
			}
		})
	}
	time.Sleep(length)
	p.Close() // under load
	stop.Store(true)
	submitting.Wait()
	killer.Wait()
	for i, l := range ledgers {
		for _, calls := range batches[i] {
			l.wait(t, calls)
			for j, c := range calls {
				checkVerdict(t, j, c)
			}
		}
	}
	s := p.Stats()
	var answered uint64
	for _, n := range s.Answers {
		answered += n
	}
	if s.InFlight != 0 || s.Waiting != 0 || answered != uint64(total.Load()) || s.Submitted != answered {
		t.Errorf("%d calls, but stats say %+v", total.Load(), s)
	}
	if s.Answers[Matched]+s.Answers[Mismatched] < answered/5 || s.ConnectionsLost < 20 || s.Retries == 0 || s.GoAways == 0 {
		t.Errorf("not the chaos that was meant: %+v", s)
	}
	t.Logf("%d calls: %+v", total.Load(), s)
}

// Owners reuse a call as soon as it is back, also from inside the sink.
func TestCallsAreReusedAtOnce(t *testing.T) {
	dir := socketDir(t)
	peer := startPeer(t, dir, "worker-0.sock", chaosPeer)
	startPeer(t, dir, "worker-1.sock", nil)
	p := startPool(t, dir, nil)
	waitOpen(t, p, 2)
	loop := &resubmitter{pool: p, left: make(map[*Call]int)}
	calls := newLedger().calls(t, 200, 0)
	for _, c := range calls {
		c.Sink = loop
		c.Deadline = time.Now().Add(20 * time.Millisecond)
		loop.left[c] = 50
	}
	loop.done.Add(len(calls))
	p.Submit(calls...)
	for range 20 {
		time.Sleep(2 * time.Millisecond)
		peer.killAll()
	}
	loop.done.Wait()
	if s := p.Stats(); s.Submitted != 200*50 || s.InFlight != 0 {
		t.Errorf("10,000 submissions, but stats say %+v", s)
	}
}

type resubmitter struct {
	pool *Pool
	done sync.WaitGroup
	mu   sync.Mutex
	left map[*Call]int
}

func (r *resubmitter) Completed(calls []*Call) {
	for _, c := range calls {
		r.mu.Lock()
		r.left[c]--
		n := r.left[c]
		r.mu.Unlock()
		if n == 0 {
			r.done.Done()
			continue
		}
		c.Deadline = time.Now().Add(20 * time.Millisecond)
		r.pool.Submit(c)
	}
}
