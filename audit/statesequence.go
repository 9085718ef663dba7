package audit

import (
	"errors"
	"io"
	"slices"
	"time"
)

// sequenceLag is how far apart in time two records may stand in the journal in
// the other order than their commits: an act is recorded beside decisions, as
// soon as its goroutine runs.
const sequenceLag = time.Minute

// LastStateSequence is the highest StateSequence of a journal, 0 if no record has
// one, or if there is no journal. It reads the end, back to sequenceLag before the
// last record that has one, and leaves judging damage to Open.
func LastStateSequence(dir string) (uint64, error) {
	numbers, err := listSegments(dir)
	if err != nil {
		return 0, err
	}
	var l lastSequence
	for _, n := range slices.Backward(numbers) {
		if err := l.segment(dir, n); err != nil {
			return 0, err
		}
		if l.complete {
			break
		}
	}
	return l.highest, nil
}

// A lastSequence is filled from the end of a journal.
type lastSequence struct {
	highest  uint64
	at       time.Time // of the last record that has one
	complete bool      // nothing before can be higher
}

func (l *lastSequence) segment(dir string, number uint64) error {
	name := segmentName(number)
	var st scanState
	f, size, err := openSegment(dir, name, number, &st)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	type group struct {
		at   int64
		size uint32
	}
	var groups []group
	err = scanSegment(f, name, size, &st, func(h groupHeader, _ []byte) error {
		groups = append(groups, group{st.end + groupHeaderBytes, h.size})
		return nil
	})
	var torn *TornTailError
	if err != nil && !errors.As(err, &torn) {
		return err
	}
	for _, g := range slices.Backward(groups) {
		records := make([]byte, g.size)
		if _, err := f.ReadAt(records, g.at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := l.group(name, g.at, records); err != nil || l.complete {
			return err
		}
	}
	return nil
}

func (l *lastSequence) group(name string, at int64, records []byte) error {
	var newest, numbered time.Time
	for len(records) > 0 {
		r, rest, err := decodeRecord(records)
		if err != nil {
			return &CorruptError{Segment: name, Offset: at, Problem: err.Error()}
		}
		records, newest = rest, r.Time
		if r.StateSequence != 0 {
			l.highest, numbered = max(l.highest, r.StateSequence), r.Time
		}
	}
	if l.at.IsZero() {
		l.at = numbered
	}
	l.complete = !l.at.IsZero() && newest.Before(l.at.Add(-sequenceLag))
	return nil
}
