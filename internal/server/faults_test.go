package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// metric reads one metric without labels from the daemon's listener.
func (r *rig) metric(t *testing.T, name string) float64 {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: r.clientConfig("monitor")}
	resp, err := (&http.Client{Transport: transport}).Get("https://" + r.address.Metrics.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func (r *rig) health(t *testing.T, service string) healthpb.HealthCheckResponse_ServingStatus {
	t.Helper()
	resp, err := healthpb.NewHealthClient(r.conn).Check(context.Background(), &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetStatus()
}

// limitFileSize makes every write of this process to a file fail with EFBIG,
// as a full disk does with ENOSPC.
func limitFileSize(t *testing.T) (restore func()) {
	t.Helper()
	signal.Ignore(unix.SIGXFSZ)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	restore = sync.OnceFunc(func() { _ = unix.Setrlimit(unix.RLIMIT_FSIZE, &old) })
	t.Cleanup(restore)
	return restore
}

// TestUnrecordedIsUnknown makes the journal's writes fail: genuine and forged
// taps alike are UNKNOWN, and no response cryptogram leaves.
func TestUnrecordedIsUnknown(t *testing.T) {
	r := newRig(t, "visa")
	c := visaCase()
	good := c.tap(t, "j")
	// What is only repeated below changes nothing in the state, whose files the
	// limit concerns as well.
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	answered, _, _ := c.respondRequest(t, good)
	if err := r.respondError(answered); err != nil {
		t.Fatal(err)
	}
	restore := limitFileSize(t)
	for _, tap := range []*tapsealv1.Tap{good, forged(good, 3)} {
		r.want(t, tap, tapsealv1.Verdict_VERDICT_UNKNOWN, tapsealv1.Reason_REASON_AUDIT_UNAVAILABLE)
		req, _, _ := c.respondRequest(t, tap)
		resp, err := r.client.Respond(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		if err := checkAnswer(resp.GetVerification(), tapsealv1.Verdict_VERDICT_UNKNOWN, tapsealv1.Reason_REASON_AUDIT_UNAVAILABLE); err != nil {
			t.Error(err)
		}
		if len(resp.GetArpc())+len(resp.GetIssuerAuthenticationData()) != 0 {
			t.Error("a response cryptogram left without a record")
		}
		for _, res := range exchange(t, r, tap) {
			if err := checkAnswer(res.GetVerification(), tapsealv1.Verdict_VERDICT_UNKNOWN, tapsealv1.Reason_REASON_AUDIT_UNAVAILABLE); err != nil {
				t.Error(err)
			}
		}
	}
	r.eventually(t, "NOT_SERVING", func() bool { return r.health(t, "") == healthpb.HealthCheckResponse_NOT_SERVING })
	restore()
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	r.stopQuietly(t)
	if n := len(r.records()); n != 3 {
		t.Errorf("%d records, want those of the three recorded answers", n)
	}
}

// TestJournalFailureEndsTheDaemon puts a pipe in the place of the segment's
// descriptor: neither writing nor undoing works, so nobody knows what is on
// the disk.
func TestJournalFailureEndsTheDaemon(t *testing.T) {
	r := newRig(t, "visa")
	good := visaCase().tap(t, "j")
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	breakFilesBelow(t, r.cfg.Journal.Dir)
	r.want(t, good, tapsealv1.Verdict_VERDICT_UNKNOWN, tapsealv1.Reason_REASON_AUDIT_UNAVAILABLE)
	select {
	case err := <-r.ended:
		if !errors.Is(err, errJournal) {
			t.Errorf("daemon ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the daemon goes on without a journal")
	}
	r.endOnce.Do(func() {})
}

// breakFilesBelow replaces this process's open files of segments in dir.
func breakFilesBelow(t *testing.T, dir string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	broken := 0
	for _, e := range fds {
		target, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if !strings.HasPrefix(target, dir+"/") || strings.HasSuffix(target, "lock") {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		var pipe [2]int
		if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup3(pipe[0], fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		_, _ = unix.Close(pipe[0]), unix.Close(pipe[1])
		broken++
	}
	if broken == 0 {
		t.Fatal("no open segment found")
	}
}

func TestHSMGoneAndBack(t *testing.T) {
	r := newRig(t, "visa")
	good := visaCase().tap(t, "h")
	good.TimeoutMs = 300
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	r.stopWorker()
	start := time.Now()
	v, err := r.verify(good)
	if err != nil {
		t.Fatal(err)
	}
	if v.GetVerdict() != tapsealv1.Verdict_VERDICT_UNKNOWN || v.GetRetry() != tapsealv1.RetryClass_RETRY_CLASS_BACKOFF {
		t.Errorf("without a worker: %v, retry %v", v.GetVerdict(), v.GetRetry())
	}
	if took := time.Since(start); took < 240*time.Millisecond || took > 330*time.Millisecond {
		t.Errorf("UNKNOWN after %v, the deadline is 300 ms", took)
	}
	r.eventually(t, "NOT_SERVING", func() bool { return r.health(t, "") == healthpb.HealthCheckResponse_NOT_SERVING })
	// A tap that is waiting when the worker comes back is verified.
	good.TimeoutMs = 8000
	waiting := make(chan error, 1)
	go func() {
		v, err := r.verify(good)
		if err == nil {
			err = checkAnswer(v, tapsealv1.Verdict_VERDICT_VALID, 0)
		}
		waiting <- err
	}()
	time.Sleep(50 * time.Millisecond)
	r.startWorker()
	if err := <-waiting; err != nil {
		t.Errorf("waiting tap: %v", err)
	}
	r.eventually(t, "SERVING", func() bool {
		return r.health(t, tapsealv1.CryptogramService_ServiceDesc.ServiceName) == healthpb.HealthCheckResponse_SERVING
	})
}

// TestDrainUnderLoad stops the daemon under load. Every decision that was
// recorded reached its caller, and Run returns nil.
func TestDrainUnderLoad(t *testing.T) {
	r := newRig(t, "visa", func(r *rig) { r.cfg.DrainTimeoutMS = 20_000 })
	var answered, unanswered atomic.Int64
	var wg sync.WaitGroup
	for s := range 4 {
		wg.Go(func() { answered.Add(int64(r.streamUntilClosed(t, s))) })
	}
	for u := range 8 {
		wg.Go(func() {
			tap := visaCase().tap(t, fmt.Sprintf("unary-%d", u))
			for {
				v, err := r.verify(tap)
				if err != nil {
					if code := status.Code(err); code != codes.Unavailable {
						t.Errorf("unary: %v", err)
					}
					unanswered.Add(1)
					return
				}
				if err := checkAnswer(v, tapsealv1.Verdict_VERDICT_VALID, 0); err != nil {
					t.Error(err)
				}
				answered.Add(1)
			}
		})
	}
	time.Sleep(300 * time.Millisecond)
	if err := r.end(); err != nil {
		t.Errorf("daemon: %v", err)
	}
	wg.Wait()
	if got, want := int64(len(r.records())), answered.Load(); got != want || want == 0 {
		t.Errorf("%d decisions recorded, %d answers received; log:\n%s", got, want, r.log)
	}
	if unanswered.Load() != 8 {
		t.Errorf("%d callers were told to go elsewhere, want 8", unanswered.Load())
	}
}

// streamUntilClosed sends as fast as it can until the server ends the stream.
func (r *rig) streamUntilClosed(t *testing.T, s int) (got int) {
	t.Helper()
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Error(err)
		return 0
	}
	template := visaCase().tap(t, "")
	go func() {
		for i := 0; ; i++ {
			var m tapsealv1.VerifyCryptogramsRequest
			for j := range 16 {
				m.Taps = append(m.Taps, &tapsealv1.Tap{
					RequestId: fmt.Sprintf("s%d-%d-%d", s, i, j), Purpose: template.GetPurpose(), Pan: template.GetPan(), ChipData: template.GetChipData(),
				})
			}
			if stream.Send(&m) != nil {
				return
			}
		}
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			if status.Code(err) != codes.Unavailable {
				t.Errorf("stream ended with %v, want UNAVAILABLE", err)
			}
			return got
		}
		for _, res := range m.GetResults() {
			if err := checkAnswer(res.GetVerification(), tapsealv1.Verdict_VERDICT_VALID, 0); err != nil {
				t.Error(err)
			}
			got++
		}
	}
}

// TestIdleStreamDoesNotHoldUpADrain keeps a stream open without taps.
func TestIdleStreamDoesNotHoldUpADrain(t *testing.T) {
	r := newRig(t, "visa", func(r *rig) { r.cfg.DrainTimeoutMS = 20_000 })
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: []*tapsealv1.Tap{visaCase().tap(t, "i")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := r.end(); err != nil {
		t.Errorf("daemon: %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("draining took %v", took)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream ended with %v, want UNAVAILABLE", err)
	}
}
