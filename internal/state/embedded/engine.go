// Package embedded keeps the state in a directory of this machine: the engine
// for one daemon, without anything to set up. It is Pebble, a log-structured
// merge tree, behind one committer.
//
// # One committer
//
// Every change runs through one goroutine: it compares versions, counts, numbers
// the commit and hands one batch to Pebble's log. It does not wait for the disk.
// A second goroutine waits for the syncs, in order, and answers. So one sync
// serves every commit that was written before it began, and no lock is held
// while the disk works. Striped locks would allow the comparisons of different
// batches to run in parallel, but the sequence and the epoch of the control
// document are in every commit and would make them wait for each other all the
// same; and pairs of rows would need an order of locks.
//
// Pebble shows what is written before it is synced. A decision must not rest on
// what a power cut may take back, so Read waits until all that it may have seen
// is durable.
//
// # One failure
//
// After the first error of the medium nothing that Pebble does reaches it any
// more; see fence.go. Every call is answered with state.ErrBroken and Failed
// says so: the process must end, and the next one recovers from the log.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tapseal/tapseal/internal/state"
)

// Defaults of Options.
const (
	// DefaultCacheBytes keeps the daemon small. The files are in the kernel's page
	// cache as well, so a block that is not here costs a copy, not a disk.
	DefaultCacheBytes = 8 << 20
	defaultSweep      = time.Second
)

// Options say how an engine runs. The zero value is usable.
type Options struct {
	// CacheBytes of blocks are kept in memory; 0 is DefaultCacheBytes. The
	// process needs up to 24 MiB more for what is not yet in tables.
	CacheBytes int64
	Sweep      time.Duration    // between looks for expired counters; 0 is 1 s, negative is never
	Now        func() time.Time // the clock by which counters expire; nil is time.Now
	Log        *slog.Logger     // nil is none

	// Of tests.
	fs            vfs.FS // nil is the operating system's
	memTableBytes uint64 // 0 is defaultMemTableBytes
}

func (o Options) withDefaults() Options {
	if o.CacheBytes <= 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.memTableBytes == 0 {
		o.memTableBytes = defaultMemTableBytes
	}
	if o.Sweep == 0 {
		o.Sweep = defaultSweep
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// An Engine is a state.Engine on one directory. It never returns
// state.ErrRegressed: it cannot know that its directory was replaced by an older
// one. Who remembers acknowledged commits elsewhere compares Sequence.
type Engine struct {
	o      Options
	dir    string
	id     StateID
	db     *pebble.DB
	lock   *pebble.Lock
	medium *medium

	life   sync.RWMutex // read-locked by every operation
	closed bool         // guarded by life

	requests chan *request // to the committer
	syncing  chan *request // from the committer to the syncer
	running  sync.WaitGroup
	stop     chan struct{} // ends the sweeper

	known   *known
	durable watermark // the number of the last change that is on the medium

	sequence atomic.Uint64                 // durable
	control  atomic.Pointer[state.Control] // durable
	changed  chan struct{}

	swept   atomic.Uint64
	free    sync.Pool // of *request
	lookups sync.Pool // of *lookup
}

var _ state.Engine = (*Engine)(nil)

// StateID names a state from its creation on; its backups have the same.
type StateID [16]byte

// ID is the name of the state in the directory.
func (e *Engine) ID() StateID { return e.id }

// Failed is closed when the medium has failed. The process must end, even if an
// operation does not return: it may wait for the medium.
func (e *Engine) Failed() <-chan struct{} { return e.medium.broken }

// Stats counts what has happened since Open.
type Stats struct {
	Swept     uint64 // expired counters deleted
	DiskBytes uint64 // of the directory
}

// Stats may be called at any time.
func (e *Engine) Stats() Stats {
	e.life.RLock()
	defer e.life.RUnlock()
	s := Stats{Swept: e.swept.Load()}
	if !e.closed && e.medium.err() == nil {
		s.DiskBytes = e.db.Metrics().DiskSpaceUsage()
	}
	return s
}

// Open opens the state in a directory, and makes both if they are not there. The
// directory must belong to this user or root and be closed to others, mode 0700.
// It is locked until Close or the end of the process; after state.ErrBroken, also
// that of Open, until the end of the process.
func Open(dir string, o Options) (*Engine, error) {
	const doing = "opening the state directory"
	o = o.withDefaults()
	if o.fs == nil {
		o.fs = vfs.Default
		if err := prepareDirectory(dir); err != nil {
			return nil, fmt.Errorf("%s %q: %w", doing, dir, err)
		}
	}
	e := &Engine{
		o: o, dir: dir, medium: newMedium(o.Log),
		requests: make(chan *request, queueLength), syncing: make(chan *request, queueLength),
		stop: make(chan struct{}), changed: make(chan struct{}, 1), known: newKnown(),
	}
	if err := e.openOrBreak(); err != nil {
		return nil, fmt.Errorf("%s %q: %w", doing, dir, err)
	}
	c := &committer{
		e: e, epoch: e.control.Load().Epoch, sequence: e.sequence.Load(),
		cursor: hourKey(0), sums: make(map[state.Key]int),
	}
	e.running.Go(c.run)
	e.running.Go(e.settle)
	if o.Sweep > 0 {
		e.running.Go(e.sweep)
	}
	return e, nil
}

// openOrBreak opens, but does not wait for what a broken medium has stopped.
func (e *Engine) openOrBreak() error {
	opened := make(chan error, 1)
	go func() { opened <- e.open() }()
	select {
	case err := <-opened:
		return errors.Join(err, e.medium.err())
	case <-e.medium.broken:
		return e.medium.err()
	}
}

// open opens the database and reads what is kept in memory.
func (e *Engine) open() (err error) {
	fs := &fence{FS: e.o.fs, dir: e.dir, medium: e.medium}
	if e.lock, err = lockDirectory(e.dir, fs); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			e.abandon()
		}
	}()
	if e.db, err = openDatabase(e.dir, tuned(e.o, fs, e.medium, e.lock)); err != nil {
		return err
	}
	m, err := readMeta(e.db)
	if errors.Is(err, errNoState) {
		m, err = createMeta(e.db)
	}
	if err != nil {
		return err
	}
	e.id = m.id
	e.sequence.Store(m.sequence)
	e.control.Store(&m.control)
	return nil
}

// abandon gives up after a failed open.
func (e *Engine) abandon() {
	if e.db != nil {
		_ = e.db.Close()
	}
	_ = e.lock.Close()
}

// operation begins one. It is ended by e.life.RUnlock if there is no error.
func (e *Engine) operation(ctx context.Context, doing string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w: %w", doing, state.ErrUnavailable, context.Cause(ctx))
	}
	e.life.RLock()
	if e.closed {
		e.life.RUnlock()
		return fmt.Errorf("%s: %w: the engine is closed", doing, state.ErrUnavailable)
	}
	if err := e.medium.err(); err != nil {
		e.life.RUnlock()
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

// Changed fires after each SetControl. Nobody else can change the document.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// Sequence is the last commit that is durable.
func (e *Engine) Sequence(ctx context.Context) (uint64, error) {
	if err := e.operation(ctx, "reading the commit sequence"); err != nil {
		return 0, err
	}
	defer e.life.RUnlock()
	return e.sequence.Load(), nil
}

// Close waits for what is under way. A broken engine keeps its directory locked
// until the process ends: Pebble may still have it open.
func (e *Engine) Close() error {
	e.life.Lock()
	already := e.closed
	e.closed = true
	e.life.Unlock()
	if already {
		return nil
	}
	close(e.stop)
	if err := e.medium.err(); err != nil {
		return fmt.Errorf("closing the state directory: %w", err)
	}
	finished := make(chan error, 1)
	go func() {
		close(e.requests)
		e.running.Wait()
		finished <- errors.Join(e.db.Close(), e.lock.Close())
	}()
	select {
	case err := <-finished:
		if err != nil {
			return fmt.Errorf("closing the state directory: %w: %w", state.ErrBroken, clean(err))
		}
		return nil
	case <-e.medium.broken:
		return fmt.Errorf("closing the state directory: %w", e.medium.err())
	}
}
