package audit

import (
	"context"
	"testing"
)

func TestLastStateSequence(t *testing.T) {
	dir := t.TempDir()
	want := func(n uint64) {
		t.Helper()
		if got, err := LastStateSequence(dir); err != nil || got != n {
			t.Fatalf("got %d, %v, want %d", got, err, n)
		}
	}
	want(0) // no journal
	j, err := Open(dir, Options{SegmentBytes: minSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	write := func(sequence uint64) {
		t.Helper()
		r := testRecord(1)
		r.StateSequence = sequence
		if err := j.AppendWait(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	want(0)
	write(0)
	want(0)
	write(7)
	want(7)
	write(0)
	want(7)
	write(8)
	for range 2000 { // over several segments, none of which has one
		write(0)
	}
	numbers, err := listSegments(dir)
	if err != nil || len(numbers) < 3 {
		t.Fatalf("%d segments, %v", len(numbers), err)
	}
	want(8)

	// An act that was recorded late, in a segment of its own.
	write(100)
	for range 1000 {
		write(0)
	}
	write(99)
	want(100)
	// What is older cannot be such a case: of it only the last group is read.
	late := testRecord(1)
	late.Time, late.StateSequence = late.Time.Add(2*sequenceLag), 90
	if err := j.AppendWait(context.Background(), late); err != nil {
		t.Fatal(err)
	}
	want(99)
}
