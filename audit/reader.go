package audit

import (
	"errors"
	"fmt"
	"iter"
	"os"
)

// ReadDir reads a journal from its first record to its last, checking every
// checksum and the hash chain. It needs no lock and no key, so an auditor can
// run it on a copy. An error ends the sequence, except that a missing
// beginning (older segments archived elsewhere) is reported first and the rest
// follows: *CorruptError for damage, *TornTailError where the journal ends in
// a write that was not completed – or that is under way, if the journal is in
// use. Records that were cut off when the journal was opened after a crash
// leave a record of KindRecovered. That whole groups are missing at the very
// end cannot be seen from the journal alone.
func ReadDir(dir string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		err := readDir(dir, yield)
		if err != nil && !errors.Is(err, errStopReading) {
			yield(Record{}, err)
		}
	}
}

var errStopReading = errors.New("the reader has seen enough")

func readDir(dir string, yield func(Record, error) bool) error {
	numbers, err := listSegments(dir)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return fmt.Errorf("reading journal: no segments in %q: %w", dir, os.ErrNotExist)
	}
	if numbers[0] != 1 {
		missing := &CorruptError{Segment: segmentName(1), Problem: fmt.Sprintf("the journal here begins with segment %d", numbers[0])}
		if !yield(Record{}, missing) {
			return nil
		}
	}
	var st scanState
	for i, n := range numbers {
		if n != numbers[0]+uint64(i) {
			return &CorruptError{Segment: segmentName(n), Problem: "a segment before it is missing"}
		}
		if err := readSegment(dir, n, i == len(numbers)-1, &st, yield); err != nil {
			return err
		}
	}
	return nil
}

func readSegment(dir string, number uint64, last bool, st *scanState, yield func(Record, error) bool) error {
	name := segmentName(number)
	f, size, err := openSegment(dir, name, number, st)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = scanSegment(f, name, size, st, func(h groupHeader, records []byte) error {
		return eachRecord(name, st.end, h, records, yield)
	})
	var torn *TornTailError
	if errors.As(err, &torn) && !last {
		return &CorruptError{Segment: name, Offset: torn.Offset, Problem: "damaged, and a later segment follows"}
	}
	return err
}

func eachRecord(name string, off int64, h groupHeader, records []byte, yield func(Record, error) bool) error {
	for i := range uint64(h.records) {
		r, rest, err := decodeRecord(records)
		if err != nil {
			return &CorruptError{Segment: name, Offset: off, Problem: err.Error()}
		}
		r.Sequence = h.first + i
		if !yield(r, nil) {
			return errStopReading
		}
		records = rest
	}
	if len(records) != 0 {
		return &CorruptError{Segment: name, Offset: off, Problem: "bytes after the last record of a group"}
	}
	return nil
}
