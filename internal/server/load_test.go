package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

func ecdsaKeyOf(t *testing.T, pair tls.Certificate) *ecdsa.PrivateKey {
	t.Helper()
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("no ECDSA key")
	}
	return key
}

func newTLS(c *tls.Config) credentials.TransportCredentials { return credentials.NewTLS(c) }

// lateBy is what a busy machine may add to an answer that left in time.
const lateBy = 40 * time.Millisecond

// TestNoAnswerIsLate has the worker stuck: with the default timeout, what comes
// back comes within it, whichever way it was asked.
func TestNoAnswerIsLate(t *testing.T) {
	release := make(chan struct{})
	stuck := make(chan struct{})
	r := newRig(t, "visa", func(r *rig) {
		r.cfg.DefaultTimeoutMS = 250
		r.token.delay = func() {
			select {
			case <-stuck:
				<-release
			default:
			}
		}
	})
	defer close(release)
	good := visaCase().tap(t, "late")
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	close(stuck)
	for _, timeout := range []uint32{0, 40, 100, 1000} {
		want := 250 * time.Millisecond
		if timeout != 0 {
			want = time.Duration(timeout) * time.Millisecond
		}
		tap, _ := proto.Clone(good).(*tapsealv1.Tap)
		tap.TimeoutMs = timeout
		start := time.Now()
		v, err := r.verify(tap)
		took := time.Since(start)
		if err != nil || v.GetVerdict() != tapsealv1.Verdict_VERDICT_UNKNOWN || took > want+lateBy || took < want/2 {
			t.Errorf("unary, timeout %v: %v %v after %v", want, v.GetReasons(), err, took)
		}
		start = time.Now()
		res := exchange(t, r, tap)
		if took := time.Since(start); res[0].GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_UNKNOWN || took > want+lateBy {
			t.Errorf("stream, timeout %v: %v after %v", want, res, took)
		}
	}
}

// TestAnswersLeaveWhileTheJournalHangs stalls the commit of decisions: UNKNOWN
// leaves at the deadline, also on a stream whose timer was set for a later tap.
func TestAnswersLeaveWhileTheJournalHangs(t *testing.T) {
	e := lateEngine()
	s := newStream(context.Background(), e, &caller{})
	later, sooner := heldTap(t, e, "later"), heldTap(t, e, "sooner")
	now := time.Now()
	later.AnswerBy, sooner.AnswerBy = now.Add(time.Hour), now.Add(30*time.Millisecond)
	s.enter(&intake{fresh: []*tap{later}})
	<-s.wake
	s.enter(&intake{fresh: []*tap{sooner}})
	select {
	case <-s.wake: // the sender looks at its timer again
	default:
		t.Fatal("the sender would sleep past the deadline")
	}
	if wait := s.sweepLate(now); wait > 30*time.Millisecond {
		t.Errorf("the next look is in %v", wait)
	}
	s.sweepLate(now.Add(30 * time.Millisecond))
	taps, _ := s.takeReady()
	if len(taps) != 1 || taps[0].requestID != "sooner" {
		t.Fatalf("%d answers", len(taps))
	}
	wantLate(t, taps[0])
	release(e, s, sooner, nil)
	release(e, s, later, nil)
}

func TestGateFollowsTheHSM(t *testing.T) {
	const target = 60 * time.Millisecond
	g := newGate(8192, target)
	now := time.Unix(1000, 0)
	if n := g.take(context.Background(), 5000, 0); n != 5000 {
		t.Fatal(n)
	}
	g.observe(now, now.Add(300*time.Millisecond)) // 5,000 take 300 ms: 1,000 take 60
	if p := g.places(); p < 900 || p > 1100 {
		t.Errorf("%d places", p)
	}
	g.observe(now.Add(time.Millisecond), now.Add(320*time.Millisecond)) // went in before the change
	if p := g.places(); p < 900 {
		t.Errorf("%d places: punished twice", p)
	}
	if g.try() {
		t.Error("a place while more than the bound are in")
	}
	g.release(4500)
	for i := range 100 {
		at := now.Add(time.Duration(i+1) * time.Second)
		g.take(context.Background(), g.places(), 0)
		g.observe(at, at.Add(10*time.Millisecond))
	}
	if p := g.places(); p != 8192 {
		t.Errorf("%d places after a quiet time", p)
	}
	for i := range 100 {
		at := now.Add(time.Duration(i+1000) * time.Second)
		g.observe(at, at.Add(time.Minute))
	}
	if p := g.places(); p != fewestPlaces {
		t.Errorf("%d places, want the fewest", p)
	}
}

// TestOverload offers five times what the token can do: most of what it can do
// is still done, in time, and the rest is refused quickly and with a delay.
func TestOverload(t *testing.T) {
	capacity := 2000
	if testing.Short() { // the race detector needs most of the processor: let the token stay the narrow place
		capacity = 200
	}
	r := newRig(t, "visa", func(r *rig) {
		r.cfg.DefaultTimeoutMS = 250
		r.token.each = time.Second / time.Duration(capacity)
	})
	peak := r.offer(t, capacity, 2*time.Second)
	over := r.offer(t, 5*capacity, 3*time.Second)
	t.Logf("valid a second: %.0f at the peak, %.0f at five times the load with %d refused and %d unknown",
		peak.goodput, over.goodput, over.refused, over.unknown)
	if over.goodput < 0.8*peak.goodput {
		t.Errorf("goodput fell from %.0f to %.0f a second", peak.goodput, over.goodput)
	}
	if over.refused == 0 || over.withoutDelay != 0 {
		t.Errorf("%d refused, %d of them without a delay", over.refused, over.withoutDelay)
	}
	if over.refused == 0 {
		return
	}
	// A stream waits half of the timeout for a place before it refuses. Twice
	// the timeout for nine of ten leaves room for a machine that does other
	// things, and none for refusals that queue behind the work.
	if slow := over.refusals[len(over.refusals)*9/10]; slow > 500*time.Millisecond {
		t.Errorf("a tenth of the refusals took more than %v", slow)
	}
}

// An offering is what came of an offered load.
type offering struct {
	goodput                        float64 // VALID a second
	unknown, refused, withoutDelay int
	refusals                       []time.Duration // sorted: from sending to hearing so
}

// offer sends rate taps a second over eight streams, whatever comes back.
func (r *rig) offer(t *testing.T, rate int, length time.Duration) (sum offering) {
	t.Helper()
	const streams, each = 8, 10
	var wg sync.WaitGroup
	var mu sync.Mutex
	valid := 0
	start := time.Now()
	for n := range streams {
		wg.Go(func() {
			stream, err := r.client.VerifyCryptograms(context.Background())
			if err != nil {
				t.Error(err)
				return
			}
			var sentMu sync.Mutex
			sent := map[string]time.Time{}
			go func() {
				template := visaCase().tap(t, "")
				next := start
				for i := 0; time.Since(start) < length; i++ {
					var m tapsealv1.VerifyCryptogramsRequest
					sentMu.Lock()
					for j := range each {
						id := fmt.Sprintf("o%d-%d-%d", n, i, j)
						sent[id] = time.Now()
						m.Taps = append(m.Taps, &tapsealv1.Tap{
							RequestId: id, Purpose: template.GetPurpose(), Pan: template.GetPan(), ChipData: template.GetChipData(),
						})
					}
					sentMu.Unlock()
					if stream.Send(&m) != nil {
						break
					}
					next = next.Add(time.Second * streams * each / time.Duration(rate))
					time.Sleep(time.Until(next))
				}
				_ = stream.CloseSend()
			}()
			for {
				m, err := stream.Recv()
				if err != nil {
					if !errors.Is(err, io.EOF) {
						t.Errorf("stream: %v", err)
					}
					return
				}
				mu.Lock()
				for _, res := range m.GetResults() {
					switch e := res.GetError(); {
					case e != nil && codes.Code(e.GetCode()) == codes.ResourceExhausted:
						sum.refused++
						if e.GetRetryAfterMs() == 0 {
							sum.withoutDelay++
						}
						sentMu.Lock()
						sum.refusals = append(sum.refusals, time.Since(sent[res.GetRequestId()]))
						sentMu.Unlock()
					case e != nil:
						t.Errorf("error %v", e)
					case res.GetVerification().GetVerdict() == tapsealv1.Verdict_VERDICT_VALID:
						valid++
					default:
						sum.unknown++
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	sum.goodput = float64(valid) / time.Since(start).Seconds()
	slices.Sort(sum.refusals)
	return sum
}
