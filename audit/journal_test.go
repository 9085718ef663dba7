package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func testRecord(i int) Record {
	return Record{
		Time:       time.Unix(1_800_000_000, int64(i)).UTC(),
		Caller:     "spiffe://example.test/acquirer",
		RequestID:  fmt.Sprintf("tap-%06d", i),
		Method:     MethodStream,
		Purpose:    1,
		Assignment: "demo-visa",
		Profile:    2,
		KeySet:     "demo-visa-ac",
		KeyVersion: 1,
		Verdict:    1,
		Attempts:   1,
	}
}

func mustOpen(t testing.TB, dir string, o Options) *Journal {
	t.Helper()
	j, err := Open(dir, o)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func mustAppend(t testing.TB, j *Journal, recs ...Record) {
	t.Helper()
	if err := appendAndWait(j, recs); err != nil {
		t.Fatalf("Append: %v", err)
	}
}

func appendAndWait(j *Journal, recs []Record) error {
	answer := make(chan error, 1)
	j.Append(recs, func(err error) { answer <- err })
	return <-answer
}

func mustClose(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// readAll gives the records up to the first error.
func readAll(dir string) (recs []Record, err error) {
	for r, err := range ReadDir(dir) {
		if err != nil {
			return recs, err
		}
		recs = append(recs, r)
	}
	return recs, nil
}

func TestWhatWasAppendedIsRead(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	want := make([]Record, 0, 100)
	for i := range 100 {
		r := testRecord(i)
		r.Reasons = [MaxReasons]uint8{uint8(i % 11), uint8(i % 3)}
		want = append(want, r)
	}
	mustAppend(t, j, want[:1]...)
	mustAppend(t, j, want[1:60]...)
	for _, r := range want[60:] {
		if err := j.AppendWait(t.Context(), r); err != nil {
			t.Fatalf("AppendWait: %v", err)
		}
	}
	mustClose(t, j)
	for i := range want {
		want[i].Sequence, want[i].Kind = uint64(i+1), KindDecision
	}
	got, err := readAll(dir)
	if err != nil {
		t.Fatalf("ReadDir: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records differ (-want +got):\n%s", diff)
	}
}

func TestRecordsOfAnyContentComeBack(t *testing.T) {
	text := rapid.StringN(0, 100, MaxFieldBytes)
	rapid.Check(t, func(t *rapid.T) {
		want := Record{
			Kind: KindDecision, Time: time.Unix(0, rapid.Int64().Draw(t, "time")).UTC(),
			Caller: text.Draw(t, "caller"), RequestID: text.Draw(t, "id"),
			Assignment: text.Draw(t, "assignment"), KeySet: text.Draw(t, "set"),
			Method: Method(rapid.Byte().Draw(t, "method")), Purpose: rapid.Byte().Draw(t, "purpose"),
			Verdict: rapid.Byte().Draw(t, "verdict"), Attempts: rapid.Byte().Draw(t, "attempts"),
			Profile: rapid.Uint16().Draw(t, "profile"), KeyVersion: rapid.Uint32().Draw(t, "version"),
			CutBytes: rapid.Uint64().Draw(t, "cut"),
		}
		want.Freshness = rapid.Byte().Draw(t, "freshness")
		want.StateSequence = rapid.Uint64().Draw(t, "state sequence")
		copy(want.Token[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "token"))
		copy(want.Reasons[:], rapid.SliceOfN(rapid.Byte(), MaxReasons, MaxReasons).Draw(t, "reasons"))
		b, err := appendRecord([]byte("before"), &want)
		if err != nil {
			t.Fatalf("appendRecord: %v", err)
		}
		got, rest, err := decodeRecord(append(b, "after"...)[len("before"):])
		if err != nil || string(rest) != "after" {
			t.Fatalf("decodeRecord: rest %q, error %v", rest, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("record differs (-want +got):\n%s", diff)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	r := testRecord(7)
	b, err := appendRecord(nil, &r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[framePrefixBytes:])
	act := Record{Kind: KindAdministration, Action: ActionSuspend, Outcome: OutcomeDone, StateSequence: 300}
	if b, err = appendRecord(nil, &act); err != nil {
		f.Fatal(err)
	}
	f.Add(b[framePrefixBytes:])
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeBody(body)
		if err != nil {
			return
		}
		again, err := appendRecord(nil, &r)
		if err != nil {
			t.Fatalf("a decoded record cannot be encoded: %v", err)
		}
		back, _, err := decodeRecord(again)
		if err != nil || back != r {
			t.Fatalf("a decoded record does not survive: %v", err)
		}
	})
}

func TestTheSequenceGoesOnOverSegmentsAndRestarts(t *testing.T) {
	dir := t.TempDir()
	const perRun, runs = 300, 4
	n := 0
	for range runs {
		j := mustOpen(t, dir, Options{SegmentBytes: minSegmentBytes})
		for range perRun {
			mustAppend(t, j, testRecord(n))
			n++
		}
		if s := j.Stats(); s.LastSequence != uint64(n) || s.Records != perRun || s.Commits != perRun {
			t.Errorf("stats are %+v after %d records", s, n)
		}
		mustClose(t, j)
	}
	checkSequence(t, dir, n)
	numbers, err := listSegments(dir)
	if err != nil || len(numbers) < 5 {
		t.Errorf("%d segments, error %v: want several", len(numbers), err)
	}
}

// checkSequence expects exactly testRecord(0…n-1).
func checkSequence(t *testing.T, dir string, n int) {
	t.Helper()
	recs, err := readAll(dir)
	if err != nil {
		t.Fatalf("ReadDir: %v", err)
	}
	if len(recs) != n {
		t.Fatalf("%d records, want %d", len(recs), n)
	}
	for i, r := range recs {
		if r.Sequence != uint64(i+1) || r.RequestID != testRecord(i).RequestID {
			t.Fatalf("record %d has sequence %d and request id %q", i, r.Sequence, r.RequestID)
		}
	}
}

func TestConcurrentAppendsShareCommits(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	const callers, each = 64, 50
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				if err := j.AppendWait(context.Background(), testRecord(c*each+i)); err != nil {
					t.Errorf("AppendWait: %v", err)
				}
			}
		})
	}
	wg.Wait()
	s := j.Stats()
	mustClose(t, j)
	if s.Records != callers*each || s.Commits >= s.Records/2 {
		t.Errorf("%d records took %d commits", s.Records, s.Commits)
	}
	recs, err := readAll(dir)
	if err != nil {
		t.Fatalf("ReadDir: %v", err)
	}
	seen := make(map[string]bool)
	for _, r := range recs {
		seen[r.RequestID] = true
	}
	if len(recs) != callers*each || len(seen) != callers*each {
		t.Errorf("%d records, %d different ones, want %d", len(recs), len(seen), callers*each)
	}
}

func TestASecondOpenIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("second Open: %v, want ErrLocked", err)
	}
	mustAppend(t, j, testRecord(0))
	mustClose(t, j)
	mustClose(t, mustOpen(t, dir, Options{}))
	checkSequence(t, dir, 1)
}

func TestAfterCloseNothingIsTaken(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{})
	mustClose(t, j)
	if err := appendAndWait(j, []Record{testRecord(0)}); !errors.Is(err, ErrClosed) {
		t.Errorf("Append after Close: %v, want ErrClosed", err)
	}
	mustClose(t, j)
}

func TestCloseMakesDurableWhatIsPending(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	answers := make(chan error, 500)
	for i := range cap(answers) {
		j.Append([]Record{testRecord(i)}, func(err error) { answers <- err })
	}
	mustClose(t, j)
	for range cap(answers) {
		if err := <-answers; err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	checkSequence(t, dir, cap(answers))
}

func TestAnOverlongFieldIsRefusedAlone(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	bad := testRecord(1)
	bad.Caller = strings.Repeat("x", MaxFieldBytes+1)
	err := appendAndWait(j, []Record{testRecord(0), bad})
	if err == nil || strings.Contains(err.Error(), "xxx") {
		t.Errorf("Append: %v, want an error without the value", err)
	}
	mustAppend(t, j, testRecord(0))
	mustClose(t, j)
	checkSequence(t, dir, 1)
}

// slowFile holds up the first sync after it was armed until it is told.
type slowFile struct {
	segmentFile
	armed            atomic.Bool
	entered, release chan struct{}
}

func (f *slowFile) Datasync() error {
	if f.armed.CompareAndSwap(true, false) {
		f.entered <- struct{}{}
		<-f.release
	}
	return f.segmentFile.Datasync()
}

func TestPendingRecordsAreBounded(t *testing.T) {
	dir := t.TempDir()
	slow := &slowFile{entered: make(chan struct{}), release: make(chan struct{})}
	j := mustOpen(t, dir, Options{MaxPendingBytes: 2000, wrap: func(f segmentFile) segmentFile {
		slow.segmentFile = f
		return slow
	}})
	slow.armed.Store(true)
	answers := make(chan error, 1000)
	done := func(err error) { answers <- err }
	j.Append([]Record{testRecord(0)}, done)
	<-slow.entered
	taken := 1
	for len(answers) == 0 {
		j.Append([]Record{testRecord(taken)}, done)
		taken++
	}
	if err := <-answers; !errors.Is(err, ErrFull) {
		t.Fatalf("the first answer is %v, want ErrFull", err)
	}
	taken--
	if taken < 5 || taken > 40 {
		t.Errorf("%d records fit into 2000 bytes", taken)
	}
	close(slow.release)
	for range taken {
		if err := <-answers; err != nil {
			t.Fatalf("Append: %v", err)
		}
	}
	mustAppend(t, j, testRecord(taken))
	mustClose(t, j)
	checkSequence(t, dir, taken+1)
}

func TestAWaiterMayGiveUp(t *testing.T) {
	slow := &slowFile{entered: make(chan struct{}), release: make(chan struct{})}
	j := mustOpen(t, t.TempDir(), Options{wrap: func(f segmentFile) segmentFile {
		slow.segmentFile = f
		return slow
	}})
	slow.armed.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-slow.entered
		cancel()
	}()
	if err := j.AppendWait(ctx, testRecord(0)); !errors.Is(err, context.Canceled) {
		t.Errorf("AppendWait: %v, want the context's error", err)
	}
	close(slow.release)
	if err := j.AppendWait(t.Context(), testRecord(1)); err != nil {
		t.Errorf("AppendWait: %v", err)
	}
}

// brokenFile fails every sync with EIO, as a disk that lost a page does, and
// counts them.
type brokenFile struct {
	segmentFile
	broken *bool
	syncs  *int
}

func (f *brokenFile) Datasync() error {
	*f.syncs++
	if *f.broken {
		return &os.SyscallError{Syscall: "fdatasync", Err: errInput}
	}
	return f.segmentFile.Datasync()
}

var errInput = errors.New("input/output error")

func TestAFailedSyncPoisonsForEver(t *testing.T) {
	dir := t.TempDir()
	broken, syncs := false, 0
	j := mustOpen(t, dir, Options{wrap: func(f segmentFile) segmentFile {
		return &brokenFile{segmentFile: f, broken: &broken, syncs: &syncs}
	}})
	mustAppend(t, j, testRecord(0))
	broken = true
	if err := appendAndWait(j, []Record{testRecord(1)}); !errors.Is(err, ErrPoisoned) || !errors.Is(err, errInput) {
		t.Fatalf("Append over a broken disk: %v, want ErrPoisoned with its cause", err)
	}
	if err := <-j.Failed(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Failed delivered %v", err)
	}
	if _, open := <-j.Failed(); open {
		t.Error("Failed is not closed")
	}
	broken = false
	before := syncs
	for range 10 {
		if err := appendAndWait(j, []Record{testRecord(2)}); !errors.Is(err, ErrPoisoned) {
			t.Fatalf("Append after a failed sync: %v, want ErrPoisoned", err)
		}
	}
	if err := j.Close(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Close: %v, want ErrPoisoned", err)
	}
	if syncs != before {
		t.Errorf("%d syncs after the failed one", syncs-before)
	}
	// A new process looks at what is there: the acknowledged record is, the
	// other one may be.
	j = mustOpen(t, dir, Options{})
	mustAppend(t, j, testRecord(3))
	mustClose(t, j)
	recs, err := readAll(dir)
	if err != nil || len(recs) < 2 || recs[0].RequestID != testRecord(0).RequestID ||
		recs[len(recs)-1].RequestID != testRecord(3).RequestID {
		t.Errorf("after reopening: %d records, error %v", len(recs), err)
	}
}

func TestRecoveryIsLoggedAndRecorded(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{})
	mustAppend(t, j, testRecord(0))
	mustAppend(t, j, testRecord(1))
	mustClose(t, j)
	path := filepath.Join(dir, segmentName(1))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()-5); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	j = mustOpen(t, dir, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	mustAppend(t, j, testRecord(2))
	mustClose(t, j)
	if !strings.Contains(log.String(), "never completely committed") {
		t.Errorf("the log does not tell of the cut: %q", log.String())
	}
	recs, err := readAll(dir)
	if err != nil || len(recs) != 3 {
		t.Fatalf("%d records, error %v", len(recs), err)
	}
	if recs[1].Kind != KindRecovered || recs[1].CutBytes == 0 || recs[2].RequestID != testRecord(2).RequestID {
		t.Errorf("records after recovery: %+v", recs[1:])
	}
	if kept, err := filepath.Glob(filepath.Join(dir, "*"+tornInfix+"*")); err != nil || len(kept) != 1 {
		t.Errorf("the cut bytes are kept in %d files, error %v", len(kept), err)
	}
}
