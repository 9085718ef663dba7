package audit

import (
	"errors"
	"io"
	"slices"
)

// LastStateSequence is the highest StateSequence of the last segments that have
// one, 0 if none has, or if there is no journal. Acts are recorded beside decisions,
// so the last record need not have the highest. It leaves judging damage to Open.
func LastStateSequence(dir string) (uint64, error) {
	numbers, err := listSegments(dir)
	if err != nil {
		return 0, err
	}
	var last uint64
	for _, n := range slices.Backward(numbers) {
		s, err := lastStateSequence(dir, n)
		if err != nil {
			return 0, err
		}
		if last != 0 { // the segment before the last one that has some
			return max(last, s), nil
		}
		last = s
	}
	return last, nil
}

func lastStateSequence(dir string, number uint64) (last uint64, err error) {
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
		if err != nil {
			return 0, err
		}
		last = max(last, s)
	}
	return last, nil
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
