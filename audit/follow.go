package audit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
)

// A CursorError says that a journal cannot be followed from a sequence on.
type CursorError struct {
	After uint64 // the sequence
	First uint64 // of the first record that is still here
	Last  uint64 // of the last durable record
}

func (e *CursorError) Error() string {
	if e.After > e.Last {
		return fmt.Sprintf("the journal ends with record %d, before record %d", e.Last, e.After)
	}
	return fmt.Sprintf("the journal here begins with record %d, after record %d", e.First, e.After)
}

// A Follower reads a journal while it is written. It gives durable records only,
// each one once and in order, over the ends of segments. A slow one costs the
// journal nothing: it reads files, and holds the records of one group at most.
// It is for one goroutine.
type Follower struct {
	j     *Journal
	more  chan struct{} // something was committed since it was last looked at
	given uint64        // sequence of the last record that was given

	file   *os.File
	number uint64    // of the segment
	at     scanState // behind the group that is being given
	buf    []byte    // of a group
	group  []byte    // what is left of it
	hasher *chainHasher
}

// keepGroupBytes is how large a buffer stays between groups.
const keepGroupBytes = 256 << 10

// Follow begins after a record: 0 is the beginning of the journal. A record
// that is not there yet, or whose successor is not there any more, is a
// *CursorError. Segments before it are not read, groups before it only by their
// headers.
func (j *Journal) Follow(after uint64) (*Follower, error) {
	f := &Follower{j: j, more: make(chan struct{}, 1), given: after, hasher: newChainHasher()}
	if last := j.stats.sequence.Load(); after > last {
		return nil, &CursorError{After: after, Last: last}
	}
	if err := f.begin(); err != nil {
		f.Close()
		return nil, err
	}
	j.followers.add(f.more)
	return f, nil
}

// Close ends the following.
func (f *Follower) Close() {
	f.j.followers.remove(f.more)
	if f.file != nil {
		_ = f.file.Close()
	}
}

// Cursor is the sequence of the last record that Read gave.
func (f *Follower) Cursor() uint64 { return f.given }

// Read fills recs with the records that follow and are durable now, and says how
// many: 0 at the end of the journal. Damage is a *CorruptError.
func (f *Follower) Read(recs []Record) (n int, err error) {
	for n < len(recs) {
		if len(f.group) == 0 {
			if f.j.stats.sequence.Load() < f.at.next {
				break
			}
			if err := f.load(); err != nil {
				return n, err
			}
			continue
		}
		r, rest, err := decodeRecord(f.group)
		if err != nil {
			return n, f.corrupt(err.Error())
		}
		f.group = rest
		f.given++
		r.Sequence = f.given
		recs[n] = r
		n++
	}
	return n, nil
}

// Wait waits until Read has something to give. It returns ErrClosed when
// nothing can come any more.
func (f *Follower) Wait(ctx context.Context) error {
	for f.j.stats.sequence.Load() <= f.given {
		select {
		case <-f.more:
		case <-ctx.Done():
			return ctx.Err()
		case <-f.j.stopped:
			if f.j.stats.sequence.Load() <= f.given {
				return ErrClosed
			}
		}
	}
	return nil
}

func (f *Follower) corrupt(problem string) error {
	return &CorruptError{Segment: segmentName(f.number), Offset: f.at.end, Problem: problem}
}

// begin goes to the group with the record after f.given.
func (f *Follower) begin() error {
	numbers, err := listSegments(f.j.dir)
	if err != nil {
		return err
	}
	first := make(map[uint64]uint64) // of the segments that were looked at
	i := sort.Search(len(numbers), func(i int) bool {
		var st scanState
		file, _, e := openSegment(f.j.dir, segmentName(numbers[i]), numbers[i], &st)
		if e != nil {
			err = errors.Join(err, e)
			return true
		}
		_ = file.Close()
		first[numbers[i]] = st.next
		return st.next > f.given+1
	})
	switch {
	case err != nil:
		return err
	case len(numbers) == 0:
		return fmt.Errorf("following the journal: no segments in %q: %w", f.j.dir, fs.ErrNotExist)
	case i == 0:
		return &CursorError{After: f.given, First: first[numbers[0]], Last: f.j.stats.sequence.Load()}
	}
	if err := f.open(numbers[i-1]); err != nil {
		return err
	}
	return f.skip()
}

// open goes to the beginning of a segment. It has to continue what was read.
func (f *Follower) open(number uint64) error {
	file, _, err := openSegment(f.j.dir, segmentName(number), number, &f.at)
	if err != nil {
		return err
	}
	if f.file != nil {
		_ = f.file.Close()
	}
	f.file, f.number = file, number
	f.at.end, f.at.lastGroup = segmentHeaderBytes, 0
	return nil
}

// skip passes over whole groups, then over the records in front of the one after
// f.given.
func (f *Follower) skip() error {
	for f.at.next <= f.given {
		h, _, err := f.header()
		if err != nil {
			return err
		}
		if h.first+uint64(h.records) > f.given+1 {
			return f.enter()
		}
		f.pass(&h)
	}
	return nil
}

// enter loads the group that f.given is in, and drops what comes up to it.
func (f *Follower) enter() error {
	drop := f.given + 1 - f.at.next
	if err := f.load(); err != nil {
		return err
	}
	for range drop {
		_, rest, err := decodeRecord(f.group)
		if err != nil {
			return f.corrupt(err.Error())
		}
		f.group = rest
	}
	return nil
}

// header reads the header of the next group, which is durable. If it is not in
// this segment, the journal went on in the next one.
func (f *Follower) header() (h groupHeader, head [groupHeaderBytes]byte, err error) {
	for {
		n, err := f.file.ReadAt(head[:], f.at.end)
		if err != nil && !errors.Is(err, io.EOF) {
			return h, head, fmt.Errorf("reading journal segment %s: %w", segmentName(f.number), err)
		}
		h, ok := decodeGroupHeader(head[:n])
		switch {
		case ok && h.first == f.at.next:
			return h, head, nil
		case ok:
			return h, head, f.corrupt(fmt.Sprintf("the group begins with record %d instead of %d", h.first, f.at.next))
		}
		switch err := f.open(f.number + 1); {
		case errors.Is(err, fs.ErrNotExist):
			return h, head, f.corrupt(fmt.Sprintf("records from %d on are damaged or missing", f.at.next))
		case err != nil:
			return h, head, err
		}
	}
}

func (f *Follower) pass(h *groupHeader) {
	f.at.chain, f.at.next = h.chain, f.at.next+uint64(h.records)
	f.at.end += groupHeaderBytes + int64(h.size)
}

// load reads the next group, which is durable.
func (f *Follower) load() error {
	h, head, err := f.header()
	if err != nil {
		return err
	}
	if cap(f.buf) > keepGroupBytes && h.size <= keepGroupBytes {
		f.buf = nil
	}
	f.buf = slices.Grow(f.buf[:0], int(h.size))[:h.size]
	if _, err := f.file.ReadAt(f.buf, f.at.end+groupHeaderBytes); err != nil {
		return fmt.Errorf("reading journal segment %s: %w", segmentName(f.number), err)
	}
	if f.hasher.after(&f.at.chain, head[:groupFixedBytes], f.buf) != h.chain {
		return f.corrupt(fmt.Sprintf("records from %d on are damaged", f.at.next))
	}
	f.group = f.buf
	f.pass(&h)
	return nil
}

// wakers are the followers to be told of a commit. Telling costs one load where
// nobody follows, else a send each that never blocks.
type wakers struct {
	mu   sync.Mutex
	list atomic.Pointer[[]chan struct{}] // replaced, never changed
}

func (w *wakers) add(c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := append(slices.Clone(w.all()), c)
	w.list.Store(&list)
}

func (w *wakers) remove(c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := slices.DeleteFunc(slices.Clone(w.all()), func(d chan struct{}) bool { return d == c })
	w.list.Store(&list)
}

func (w *wakers) all() []chan struct{} {
	if list := w.list.Load(); list != nil {
		return *list
	}
	return nil
}

func (w *wakers) wake() {
	for _, c := range w.all() {
		select {
		case c <- struct{}{}:
		default: // it will look anyway
		}
	}
}
