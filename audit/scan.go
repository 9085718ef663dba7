package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A CorruptError says that committed bytes of the journal were changed, cut
// or removed. Nothing after that point can be trusted.
type CorruptError struct {
	Segment string // file name
	Offset  int64  // bytes from the start of the file
	Problem string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal segment %s at byte %d: %s", e.Segment, e.Offset, e.Problem)
}

// A TornTailError says that the journal ends in a group that was not
// completely written, as a crash leaves it: its records were never
// acknowledged. An edit of the very last group looks the same.
type TornTailError struct {
	Segment string
	Offset  int64 // end of the committed part
	Bytes   int64 // length of the torn part
}

func (e *TornTailError) Error() string {
	return fmt.Sprintf("journal segment %s: %d bytes after byte %d were not completely committed", e.Segment, e.Bytes, e.Offset)
}

// scanState is the point up to which a journal has been read.
type scanState struct {
	id        journalID
	next      uint64 // sequence of the next record
	chain     chainValue
	end       int64 // offset after the last good group
	lastGroup int64 // offset of the last good group, 0 if there is none
}

// scanSegment reads the groups of one segment and calls visit with each good
// one. st holds the state after the segment header. The error is a
// *CorruptError, a *TornTailError, that of visit, or one of reading.
func scanSegment(r io.ReaderAt, name string, size int64, st *scanState, visit func(h groupHeader, records []byte) error) error {
	var head [groupHeaderBytes]byte
	var records []byte
	hasher := newChainHasher()
	st.end, st.lastGroup = segmentHeaderBytes, 0
	for {
		n, err := r.ReadAt(head[:], st.end)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading journal segment %s: %w", name, err)
		}
		h, ok := decodeGroupHeader(head[:n])
		if !ok || st.end+groupHeaderBytes+int64(h.size) > size {
			return classifyTail(r, name, size, st)
		}
		records = slices.Grow(records[:0], int(h.size))[:h.size]
		if _, err := r.ReadAt(records, st.end+groupHeaderBytes); err != nil {
			return fmt.Errorf("reading journal segment %s: %w", name, err)
		}
		after := hasher.after(&st.chain, head[:groupFixedBytes], records)
		if h.first != st.next || after != h.chain {
			return classifyTail(r, name, size, st)
		}
		if err := visit(h, records); err != nil {
			return err
		}
		st.chain, st.next = after, st.next+uint64(h.records)
		st.lastGroup, st.end = st.end, st.end+groupHeaderBytes+int64(h.size)
	}
}

// classifyTail tells what follows the last good group: nothing but zeros
// (nil), a torn write, or damage in front of groups that were committed
// later. Only one write is ever under way, so a whole group header further on
// proves that the bytes before it had been durable.
func classifyTail(r io.ReaderAt, name string, size int64, st *scanState) error {
	const window = 1 << 20
	buf := make([]byte, window)
	last := st.end // end of the last non-zero byte
	for off := st.end; off < size; off += window - groupHeaderBytes {
		n, err := r.ReadAt(buf[:min(window, size-off)], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("reading journal segment %s: %w", name, err)
		}
		if trimmed := bytes.TrimRight(buf[:n], "\x00"); len(trimmed) > 0 {
			last = max(last, off+int64(len(trimmed)))
		}
		if at, ok := findGroup(buf[:n], off, st); ok {
			return &CorruptError{
				Segment: name, Offset: st.end,
				Problem: fmt.Sprintf("records from %d on are damaged or missing, and later ones follow at byte %d", st.next, at),
			}
		}
	}
	if last == st.end {
		return nil
	}
	return &TornTailError{Segment: name, Offset: st.end, Bytes: last - st.end}
}

// findGroup looks for a whole header of a later group in b, which was read at off.
func findGroup(b []byte, off int64, st *scanState) (int64, bool) {
	for i := 0; ; {
		k := bytes.Index(b[i:], []byte(groupMagic))
		if k < 0 {
			return 0, false
		}
		i += k
		if h, ok := decodeGroupHeader(b[i:]); ok && (off+int64(i) > st.end || h.first != st.next) {
			return off + int64(i), true
		}
		i++
	}
}

// openSegment opens a segment for reading and checks that its header fits.
// A zero st.next takes the header's word for where the journal begins.
func openSegment(dir, name string, number uint64, st *scanState) (*os.File, int64, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, 0, fmt.Errorf("opening journal segment: %w", err)
	}
	size, err := checkSegment(f, name, number, st)
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, size, nil
}

func checkSegment(f *os.File, name string, number uint64, st *scanState) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("reading journal segment %s: %w", name, err)
	}
	head := make([]byte, segmentHeaderBytes)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("reading journal segment %s: %w", name, err)
	}
	h, err := decodeSegmentHeader(head[:n])
	switch {
	case err != nil:
		return 0, &CorruptError{Segment: name, Problem: err.Error()}
	case h.number != number:
		return 0, &CorruptError{Segment: name, Problem: fmt.Sprintf("the header says segment %d", h.number)}
	case number == 1 && (h.first != 1 || h.chain != firstChain(h.id)):
		return 0, &CorruptError{Segment: name, Problem: "the header is not that of a first segment"}
	case st.next != 0 && (h.id != st.id || h.first != st.next || h.chain != st.chain):
		return 0, &CorruptError{Segment: name, Problem: "the header does not continue the segment before it"}
	}
	st.id, st.next, st.chain = h.id, h.first, h.chain
	return info.Size(), nil
}

// listSegments gives the numbers of the segments in dir, ascending.
func listSegments(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing journal: %w", err)
	}
	var numbers []uint64
	for _, e := range entries {
		if n, ok := segmentNumber(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}
