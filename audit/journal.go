package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of a journal.
var (
	// ErrLocked says that another process has the journal open.
	ErrLocked = errors.New("another process has the journal open")
	// ErrFull says that more records are waiting for the disk than the bound
	// allows. Later ones may be taken.
	ErrFull = errors.New("too many audit records are waiting for the disk")
	// ErrClosed says that the journal was closed before the record came.
	ErrClosed = errors.New("the audit journal is closed")
	// ErrPoisoned says that the disk failed in a way that leaves unknown what
	// it holds. It stays until the process ends: a new one looks at what is
	// really there.
	ErrPoisoned = errors.New("the audit journal cannot be trusted any more")
)

// Defaults of Options.
const (
	// DefaultSegmentBytes is large enough that a new segment, which costs
	// several syncs, comes every half million records.
	DefaultSegmentBytes = 64 << 20
	// DefaultMaxPendingBytes holds some 40,000 records: more than all requests
	// that the service takes at a time.
	DefaultMaxPendingBytes = maxGroupBytes
	// DefaultCommitInterval: write and sync of one group cost 0.1 to 0.2 ms of
	// CPU, which back to back would take a quarter of a small machine from
	// the HSM workers; at this interval they take a tenth of one core at most.
	// A longer one costs single callers its length and spares streams
	// nothing: their records come in batches that far apart anyway.
	DefaultCommitInterval = 2 * time.Millisecond
	minSegmentBytes       = 16 << 10
)

// Options of Open. The zero value is usable.
type Options struct {
	// Log takes what an operator has to know; nil discards it.
	Log *slog.Logger
	// SegmentBytes is the size of a segment file, which is allocated at
	// once. 0 means DefaultSegmentBytes.
	SegmentBytes int64
	// MaxPendingBytes bounds encoded records that wait for the disk. 0 means
	// DefaultMaxPendingBytes; never more than half a segment.
	MaxPendingBytes int
	// CommitInterval is the least time between the beginnings of two commits
	// while several callers append; one who waits for each record is served
	// at once. 0 means DefaultCommitInterval, a
	// negative value no interval.
	CommitInterval time.Duration
	// OnCommit is told of every commit, from the journal's goroutine: how
	// many records it made durable and how long write and sync took.
	OnCommit func(records int, took time.Duration)

	// wrap lets a test put one failure between journal and file.
	wrap func(segmentFile) segmentFile
}

// A Journal is an append-only file of records. Its methods may be called
// concurrently.
type Journal struct {
	dir  string
	lock *os.File
	opt  Options

	mu      sync.Mutex
	filling *group // takes what comes in
	resting *group // what filling was before, for the next turn
	closed  bool
	refused error // set once: nothing is taken any more

	wake    chan struct{} // something is in filling, or closed was set
	stopped chan struct{} // the goroutine has ended
	failed  chan error

	// The rest belongs to the journal's goroutine.
	segment  segmentFile
	number   uint64 // of the segment
	offset   int64  // end of what is committed in the segment
	reserved int64  // end of what is allocated in the segment
	zeroed   int64  // end of what is written with zeros in the segment
	zeros    []byte
	next     uint64 // sequence of the next record
	id       journalID
	chain    chainValue
	hasher   *chainHasher
	failing  bool      // the last commit failed
	began    time.Time // beginning of the last commit
	busy     bool      // it served more than one caller

	waiters   sync.Pool
	stats     counters
	followers wakers
}

// A group is what the next commit makes durable.
type group struct {
	buf     []byte // groupHeaderBytes reserved, then records
	records uint32
	done    []func(error)
}

func newGroup() *group { return &group{buf: make([]byte, groupHeaderBytes, 64<<10)} }

func (g *group) reset() {
	clear(g.done)
	g.buf, g.records, g.done = g.buf[:groupHeaderBytes], 0, g.done[:0]
}

// Open opens the journal in dir and makes it if there is none. After a crash
// it cuts off what was not completely committed, keeps those bytes in a file
// beside the segment, and records the fact. Damage to committed records is a
// *CorruptError, and nothing is touched. While it is open, another Open of
// the same directory fails with ErrLocked.
func Open(dir string, o Options) (*Journal, error) {
	o = o.withDefaults()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	j := &Journal{
		dir: dir, lock: lock, opt: o,
		filling: newGroup(), resting: newGroup(),
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), failed: make(chan error, 1),
		hasher: newChainHasher(), zeros: make([]byte, zeroBytes),
	}
	j.waiters.New = func() any { return newWaiter() }
	if err := j.recover(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	go j.run()
	return j, nil
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = DefaultSegmentBytes
	}
	o.SegmentBytes = max(o.SegmentBytes, minSegmentBytes)
	if o.MaxPendingBytes == 0 {
		o.MaxPendingBytes = DefaultMaxPendingBytes
	}
	o.MaxPendingBytes = int(min(int64(o.MaxPendingBytes), maxGroupBytes, o.SegmentBytes/2))
	if o.CommitInterval == 0 {
		o.CommitInterval = DefaultCommitInterval
	}
	return o
}

// Append takes decisions in order and returns without waiting for the disk.
// It calls done exactly once: with nil when all of them are durable, from the
// journal's goroutine, or with an error, and then none of them counts. What
// cannot be taken at all (ErrFull, ErrClosed, ErrPoisoned, a record over its
// limits) is reported before Append returns. done must not block and must not
// call the journal. The records may be reused as soon as Append returns.
func (j *Journal) Append(recs []Record, done func(err error)) { j.append(KindDecision, recs, done) }

func (j *Journal) append(kind Kind, recs []Record, done func(err error)) {
	if err := j.take(kind, recs, done); err != nil {
		j.stats.refused.Add(uint64(len(recs)))
		done(err)
	}
}

func (j *Journal) take(kind Kind, recs []Record, done func(error)) error {
	var now time.Time
	for i := range recs {
		if recs[i].Time.IsZero() {
			if now.IsZero() {
				now = time.Now()
			}
			recs[i].Time = now
		}
		recs[i].Kind = kind
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.refused != nil {
		return j.refused
	}
	g := j.filling
	mark := len(g.buf)
	for i := range recs {
		b, err := appendRecord(g.buf, &recs[i])
		if err == nil && len(b)-groupHeaderBytes > j.opt.MaxPendingBytes {
			err = ErrFull
		}
		if err != nil {
			g.buf = b[:mark]
			return err
		}
		g.buf = b
	}
	g.records += uint32(len(recs))
	g.done = append(g.done, done)
	j.signal()
	return nil
}

func (j *Journal) signal() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// A waiter carries the answer to one AppendWait; its callback is made once,
// so that waiting allocates nothing.
type waiter struct {
	answer chan error
	done   func(error)
}

func newWaiter() *waiter {
	w := &waiter{answer: make(chan error, 1)}
	w.done = func(err error) { w.answer <- err }
	return w
}

// AppendWait appends one decision and waits until it is durable. If ctx ends
// first its error is returned, and the record may or may not become durable.
func (j *Journal) AppendWait(ctx context.Context, rec Record) error {
	return j.appendWait(ctx, KindDecision, rec)
}

// AppendAct is AppendWait for a record of KindAdministration.
func (j *Journal) AppendAct(ctx context.Context, rec Record) error {
	return j.appendWait(ctx, KindAdministration, rec)
}

func (j *Journal) appendWait(ctx context.Context, kind Kind, rec Record) error {
	w := j.waiters.Get().(*waiter) //nolint:errcheck // the pool holds nothing else
	recs := [1]Record{rec}
	j.append(kind, recs[:], w.done)
	select {
	case err := <-w.answer:
		j.waiters.Put(w)
		return err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the audit journal: %w", ctx.Err())
	}
}

// Failed delivers one error and is then closed when the journal is poisoned:
// the process has to end, because nothing can be recorded any more.
func (j *Journal) Failed() <-chan error { return j.failed }

// ID names the journal: random, made with its first segment, and in all of them.
func (j *Journal) ID() [16]byte { return j.id }

// Close makes durable what was appended, gives back the space that the last
// segment did not need, and releases the lock. Appends after it fail with
// ErrClosed; a second Close does nothing.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		<-j.stopped
		return nil
	}
	j.closed = true
	if j.refused == nil {
		j.refused = ErrClosed
	}
	j.mu.Unlock()
	j.signal()
	<-j.stopped
	err := j.sealSegment()
	return errors.Join(err, j.lock.Close())
}

// Stats are counters since Open, and what is waiting now.
type Stats struct {
	Commits        uint64        // groups made durable
	Records        uint64        // records made durable
	Bytes          uint64        // bytes made durable, headers included
	Refused        uint64        // records that Append could not take
	FailedCommits  uint64        // groups that could not be made durable
	Committing     time.Duration // time spent in write and sync, in all
	LongestCommit  time.Duration
	PendingRecords int    // waiting for the next commit
	LastSequence   uint64 // of the last durable record
	Segment        uint64 // number of the segment being written
}

type counters struct {
	commits, records, bytes, refused, failed atomic.Uint64
	committing, longest                      atomic.Int64
	sequence, segment                        atomic.Uint64
}

// Stats reads the counters.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	pending := int(j.filling.records)
	j.mu.Unlock()
	c := &j.stats
	return Stats{
		Commits: c.commits.Load(), Records: c.records.Load(), Bytes: c.bytes.Load(),
		Refused: c.refused.Load(), FailedCommits: c.failed.Load(),
		Committing:     time.Duration(c.committing.Load()),
		LongestCommit:  time.Duration(c.longest.Load()),
		PendingRecords: pending,
		LastSequence:   c.sequence.Load(), Segment: c.segment.Load(),
	}
}
