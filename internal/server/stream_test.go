package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// An expectation is what one tap of a stream must get.
type expectation struct {
	verdict tapsealv1.Verdict // 0: an error
	names   string            // in the error
}

func (x expectation) check(res *tapsealv1.TapResult) error {
	if x.verdict == 0 {
		e := res.GetError()
		if e == nil || codes.Code(e.GetCode()) != codes.InvalidArgument || !strings.Contains(e.GetMessage(), x.names) {
			return fmt.Errorf("want an error naming %q, got code %d %q", x.names, e.GetCode(), e.GetMessage())
		}
		return nil
	}
	reason := tapsealv1.Reason(0)
	if x.verdict == tapsealv1.Verdict_VERDICT_INVALID {
		reason = tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH
	}
	return checkAnswer(res.GetVerification(), x.verdict, reason)
}

// mixedTaps makes n taps: good, forged and malformed ones in turn, each with
// an id of its own.
func mixedTaps(tb testing.TB, n int) ([]*tapsealv1.Tap, map[string]expectation) {
	tb.Helper()
	good := field55(visaCase().tap(tb, "x"))
	var bad []badInput
	for _, b := range badInputs() {
		if b.names != "request_id" {
			bad = append(bad, b)
		}
	}
	want := make(map[string]expectation, n)
	taps := make([]*tapsealv1.Tap, n)
	for i := range taps {
		id := fmt.Sprintf("tap-%06d", i)
		t, _ := proto.Clone(good).(*tapsealv1.Tap)
		switch i % 5 {
		case 0, 1:
			want[id] = expectation{verdict: tapsealv1.Verdict_VERDICT_VALID}
		case 2:
			t = forged(t, i%64)
			want[id] = expectation{verdict: tapsealv1.Verdict_VERDICT_INVALID}
		default:
			b := bad[i%len(bad)]
			b.spoil(t)
			want[id] = expectation{names: b.names}
		}
		t.RequestId = id
		taps[i] = t
	}
	return taps, want
}

func TestStreamAnswersEveryTapOnce(t *testing.T) {
	const n = 10_000
	r := newRig(t, "visa")
	taps, want := mixedTaps(t, n)
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for i, size := 0, 1; i < n; i, size = i+size, size%64+1 {
			if err := stream.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: taps[i:min(i+size, n)]}); err != nil {
				t.Errorf("send: %v", err)
				return
			}
		}
		_ = stream.CloseSend()
	}()
	wellFormed := 0
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(m.GetResults()) == 0 || len(m.GetResults()) > maxResultsInMessage {
			t.Fatalf("%d results in a message", len(m.GetResults()))
		}
		for _, res := range m.GetResults() {
			x, ok := want[res.GetRequestId()]
			if !ok {
				t.Fatalf("a second or foreign result for %q", res.GetRequestId())
			}
			delete(want, res.GetRequestId())
			if err := x.check(res); err != nil {
				t.Errorf("%s: %v", res.GetRequestId(), err)
			}
			if x.verdict != 0 {
				wellFormed++
			}
		}
	}
	if len(want) != 0 {
		t.Errorf("%d taps got no result", len(want))
	}
	r.stopQuietly(t)
	if got := len(r.records()); got != wellFormed {
		t.Errorf("%d records for %d verdicts", got, wellFormed)
	}
	if s := revealed(r.log.String(), planted(t)); s != "" {
		t.Errorf("the log reveals a planted value of %d bytes", len(s))
	}
}

// exchange sends one message and collects the results of its taps.
func exchange(t *testing.T, r *rig, taps ...*tapsealv1.Tap) []*tapsealv1.TapResult {
	t.Helper()
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: taps}); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	var all []*tapsealv1.TapResult
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m.GetResults()...)
	}
}

func TestStreamRequestIDs(t *testing.T) {
	r := newRig(t, "visa")
	good := visaCase().tap(t, "same")
	second, _ := proto.Clone(good).(*tapsealv1.Tap)
	spaced, _ := proto.Clone(good).(*tapsealv1.Tap)
	spaced.RequestId = "not usable"
	verdicts, failures := map[string]int{}, map[string]int{}
	for _, res := range exchange(t, r, good, second, spaced) {
		if res.GetVerification() != nil {
			verdicts[res.GetRequestId()]++
			continue
		}
		failures[res.GetRequestId()]++
		if !strings.Contains(res.GetError().GetMessage(), "request_id") {
			t.Errorf("error %q does not name request_id", res.GetError().GetMessage())
		}
	}
	if verdicts["same"] != 1 || failures["same"] != 1 || failures["not usable"] != 1 || len(verdicts)+len(failures) != 3 {
		t.Errorf("verdicts %v, errors %v", verdicts, failures)
	}
	// Once answered, an id may be used again on the same stream.
	if res := exchange(t, r, good); len(res) != 1 || res[0].GetVerification() == nil {
		t.Errorf("repeat: %v", res)
	}
}

func TestStreamMessageLimits(t *testing.T) {
	r := newRig(t, "visa")
	taps := make([]*tapsealv1.Tap, maxTapsInMessage+3)
	for i := range taps {
		taps[i] = visaCase().tap(t, fmt.Sprintf("n-%d", i))
	}
	refused := 0
	results := exchange(t, r, taps...)
	for _, res := range results {
		if e := res.GetError(); e != nil {
			refused++
			if codes.Code(e.GetCode()) != codes.ResourceExhausted {
				t.Errorf("code %d", e.GetCode())
			}
		}
	}
	if len(results) != len(taps) || refused != 3 {
		t.Errorf("%d results, %d refused", len(results), refused)
	}
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tapsealv1.VerifyCryptogramsRequest{}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantInvalidArgument(t, err, "taps")
}

// TestStreamBackPressure blocks the token and checks that the daemon takes no
// more taps than its bounds, and loses none.
func TestStreamBackPressure(t *testing.T) {
	const inStream, inAll, n = 16, 24, 400
	release := make(chan struct{})
	var open atomic.Bool
	r := newRig(t, "visa", func(r *rig) {
		r.cfg.Limits.TapsInStream, r.cfg.Limits.TapsInFlight = inStream, inAll
		r.cfg.DefaultTimeoutMS = 10_000
		r.token.delay = func() {
			if !open.Load() {
				<-release
			}
		}
	})
	results := make(chan int, 2)
	good := visaCase().tap(t, "")
	for s := range 2 {
		go func() {
			var taps []*tapsealv1.Tap
			for i := range n {
				tap, _ := proto.Clone(good).(*tapsealv1.Tap)
				tap.RequestId = fmt.Sprintf("s%d-%d", s, i)
				taps = append(taps, tap)
			}
			results <- r.pump(t, taps)
		}()
	}
	r.eventually(t, "as many taps as may be are in flight", func() bool { return r.metric(t, "tapseal_taps_in_flight") == inAll })
	time.Sleep(100 * time.Millisecond)
	if got := r.metric(t, "tapseal_taps_in_flight"); got != inAll {
		t.Errorf("%v taps in flight, want %d", got, inAll)
	}
	if _, err := r.client.VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: visaCase().tap(t, "u")}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a call beyond the bound got %v, want RESOURCE_EXHAUSTED", err)
	}
	open.Store(true)
	close(release)
	for range 2 {
		if got := <-results; got != n {
			t.Errorf("%d results, want %d", got, n)
		}
	}
}

// pump sends taps one a message and counts verdicts.
func (r *rig) pump(t *testing.T, taps []*tapsealv1.Tap) (got int) {
	t.Helper()
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Error(err)
		return 0
	}
	go func() {
		for _, tap := range taps {
			if stream.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: []*tapsealv1.Tap{tap}}) != nil {
				return
			}
		}
		_ = stream.CloseSend()
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("recv: %v", err)
			}
			return got
		}
		for _, res := range m.GetResults() {
			if res.GetVerification() != nil {
				got++
			}
		}
	}
}

// TestCancelledStreamIsRecorded cancels a stream with taps in flight: all of
// them are recorded, and nothing stays behind (see TestMain).
func TestCancelledStreamIsRecorded(t *testing.T) {
	const n = 200
	release := make(chan struct{})
	r := newRig(t, "visa", func(r *rig) { r.token.delay = func() { <-release } })
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := r.client.VerifyCryptograms(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var taps []*tapsealv1.Tap
	for i := range n {
		taps = append(taps, visaCase().tap(t, fmt.Sprintf("c-%d", i)))
	}
	if err := stream.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: taps}); err != nil {
		t.Fatal(err)
	}
	r.eventually(t, "all taps are in flight", func() bool { return r.metric(t, "tapseal_taps_in_flight") == n })
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("recv: %v", err)
	}
	close(release)
	r.eventually(t, "no tap is in flight", func() bool { return r.metric(t, "tapseal_taps_in_flight") == 0 })
	r.eventually(t, "no stream is open", func() bool { return r.metric(t, "tapseal_streams_open") == 0 })
	r.stopQuietly(t)
	if got := len(r.records()); got != n {
		t.Errorf("%d records, want %d", got, n)
	}
}

func (r *rig) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for range 400 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}
