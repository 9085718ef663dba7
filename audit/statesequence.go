package audit

import (
	"errors"
	"io"
	"slices"
)

// LastStateSequence is the StateSequence of the last record that has one, 0 if
// none has, or if there is no journal. It reads as much of the journal's end as it
// needs, and leaves judging its damage to Open.
func LastStateSequence(dir string) (uint64, error) {
	numbers, err := listSegments(dir)
	if err != nil {
		return 0, err
	}
	for _, n := range slices.Backward(numbers) {
		s, err := lastStateSequence(dir, n)
		if err != nil || s != 0 {
			return s, err
		}
	}
	return 0, nil
}

func lastStateSequence(dir string, number uint64) (uint64, error) {
	name := segmentName(number)
	var st scanState
	f, size, err := openSegment(dir, name, number, &st)
	if err != nil {
		return 0, err
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
		return 0, err
	}
	for _, g := range slices.Backward(groups) {
		records := make([]byte, g.size)
		if _, err := f.ReadAt(records, g.at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		s, err := lastInGroup(name, g.at, records)
		if err != nil || s != 0 {
			return s, err
		}
	}
	return 0, nil
}

func lastInGroup(name string, at int64, records []byte) (last uint64, err error) {
	for len(records) > 0 {
		var r Record
		if r, records, err = decodeRecord(records); err != nil {
			return 0, &CorruptError{Segment: name, Offset: at, Problem: err.Error()}
		}
		last = max(last, r.StateSequence)
	}
	return last, nil
}
