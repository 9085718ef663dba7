package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func mustFollow(t testing.TB, j *Journal, after uint64) *Follower {
	t.Helper()
	f, err := j.Follow(after)
	if err != nil {
		t.Fatalf("Follow after %d: %v", after, err)
	}
	t.Cleanup(f.Close)
	return f
}

// mustRead reads everything that is durable, size records at a time, and wants
// record i to be the one with sequence i+1.
func mustRead(t testing.TB, f *Follower, size int) (n int) {
	t.Helper()
	recs := make([]Record, size)
	for {
		k, err := f.Read(recs)
		if err != nil {
			t.Fatalf("Read after %d: %v", f.Cursor(), err)
		}
		if k == 0 {
			return n
		}
		for i := range k {
			want := testRecord(int(recs[i].Sequence) - 1)
			want.Sequence, want.Kind = f.Cursor()-uint64(k-1-i), KindDecision
			if recs[i] != want {
				t.Fatalf("record %+v, want %+v", recs[i], want)
			}
		}
		n += k
	}
}

// TestFollowFromEverywhere begins after each record of a journal with groups of
// many sizes in several segments, and goes on with what comes later.
func TestFollowFromEverywhere(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{SegmentBytes: minSegmentBytes})
	total := 0
	appendSome := func(n int) {
		recs := make([]Record, n)
		for i := range recs {
			recs[i] = testRecord(total + i)
		}
		mustAppend(t, j, recs...)
		total += n
	}
	for total < 600 {
		appendSome(1 + rand.IntN(30)) //nolint:gosec // any sizes do
	}
	if j.Stats().Segment < 3 {
		t.Fatalf("only %d segments", j.Stats().Segment)
	}
	before := total
	followers := make([]*Follower, before+1)
	for after := range followers {
		followers[after] = mustFollow(t, j, uint64(after))
		if n := mustRead(t, followers[after], 7); n != before-after {
			t.Fatalf("after %d: %d records, want %d", after, n, before-after)
		}
	}
	appendSome(5)
	for _, f := range followers {
		if n := mustRead(t, f, 256); n != 5 || f.Cursor() != uint64(total) {
			t.Fatalf("then %d records up to %d", n, f.Cursor())
		}
	}
}

// TestFollowAWriter follows while records come.
func TestFollowAWriter(t *testing.T) {
	const records, readers = 4000, 4
	j := mustOpen(t, t.TempDir(), Options{SegmentBytes: minSegmentBytes, CommitInterval: -1})
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range readers {
		f := mustFollow(t, j, 0)
		wg.Go(func() {
			for f.Cursor() < records {
				if err := f.Wait(ctx); err != nil {
					t.Errorf("reader %d: %v", i, err)
					return
				}
				mustRead(t, f, 1+50*i)
			}
		})
	}
	for n := 0; n < records; {
		k := min(1+rand.IntN(20), records-n) //nolint:gosec // any sizes do
		recs := make([]Record, k)
		for i := range recs {
			recs[i] = testRecord(n + i)
		}
		mustAppend(t, j, recs...)
		n += k
	}
	wg.Wait()
}

// TestFollowGivesDurableRecordsOnly: what is written but not synced may still be
// lost, so nobody must have seen it.
func TestFollowGivesDurableRecordsOnly(t *testing.T) {
	slow := &slowFile{entered: make(chan struct{}), release: make(chan struct{})}
	j := mustOpen(t, t.TempDir(), Options{wrap: func(f segmentFile) segmentFile {
		slow.segmentFile = f
		return slow
	}})
	mustAppend(t, j, testRecord(0))
	f := mustFollow(t, j, 0)
	slow.armed.Store(true)
	done := make(chan error, 1)
	j.Append([]Record{testRecord(1)}, func(err error) { done <- err })
	<-slow.entered
	if n := mustRead(t, f, 10); n != 1 {
		t.Errorf("%d records before the sync, want 1", n)
	}
	close(slow.release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := mustRead(t, f, 10); n != 1 {
		t.Errorf("%d records after the sync, want 1", n)
	}
}

func TestFollowCursors(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{SegmentBytes: minSegmentBytes})
	for i := range 400 {
		mustAppend(t, j, testRecord(i))
	}
	var cursor *CursorError
	if _, err := j.Follow(401); !errors.As(err, &cursor) || cursor.Last != 400 {
		t.Errorf("beyond the end: %v", err)
	}
	// An operator moves the first segment away.
	if err := os.Rename(filepath.Join(dir, segmentName(1)), filepath.Join(t.TempDir(), "archived")); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Follow(0); !errors.As(err, &cursor) || cursor.First < 2 {
		t.Fatalf("before the beginning: %v", err)
	}
	first := cursor.First
	if _, err := j.Follow(first - 2); !errors.As(err, &cursor) {
		t.Errorf("just before the beginning: %v", err)
	}
	if n := mustRead(t, mustFollow(t, j, first-1), 100); n != int(401-first) {
		t.Errorf("%d records from %d on", n, first)
	}
	if n := mustRead(t, mustFollow(t, j, 400), 100); n != 0 {
		t.Errorf("%d records after the last one", n)
	}
}

func TestFollowUntilClosed(t *testing.T) {
	j := mustOpen(t, t.TempDir(), Options{})
	f := mustFollow(t, j, 0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := f.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	mustAppend(t, j, testRecord(0))
	mustClose(t, j)
	if err := f.Wait(context.Background()); err != nil {
		t.Errorf("with a record left: %v", err)
	}
	if n := mustRead(t, f, 10); n != 1 {
		t.Errorf("%d records", n)
	}
	if err := f.Wait(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("at the end: %v", err)
	}
}

// TestFollowSeesDamage: a changed bit in what is still to be read is an error and
// never another record.
func TestFollowSeesDamage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		j := mustOpen(t, dir, Options{SegmentBytes: minSegmentBytes})
		defer mustClose(t, j)
		for i := range 20 {
			mustAppend(t, j, testRecord(2*i), testRecord(2*i+1))
		}
		path := filepath.Join(dir, segmentName(1))
		image, err := os.ReadFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		used := int(j.Stats().Bytes)
		at := rapid.IntRange(segmentHeaderBytes, segmentHeaderBytes+used-1).Draw(rt, "at")
		image[at] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
		if err := os.WriteFile(path, image, 0o600); err != nil {
			rt.Fatal(err)
		}
		f, err := j.Follow(0)
		if err != nil {
			rt.Fatal(err)
		}
		defer f.Close()
		recs := make([]Record, 100)
		n, err := f.Read(recs)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			rt.Fatalf("%d records and %v", n, err)
		}
		for i := range n {
			if recs[i].RequestID != testRecord(i).RequestID {
				rt.Fatalf("record %d is %+v", i, recs[i])
			}
		}
	})
}

// BenchmarkFollowed is what followers cost the journal.
func BenchmarkFollowed(b *testing.B) {
	for _, n := range []int{0, 64} {
		b.Run(fmt.Sprintf("followers%d", n), func(b *testing.B) {
			j := mustOpen(b, b.TempDir(), Options{CommitInterval: -1})
			for range n {
				mustFollow(b, j, 0)
			}
			r := testRecord(0)
			for b.Loop() {
				mustAppend(b, j, r)
			}
		})
	}
}
