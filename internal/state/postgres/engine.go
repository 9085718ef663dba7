// Package postgres keeps state in PostgreSQL, or in a database that speaks its
// language: CockroachDB or YugabyteDB. Several daemons share one database.
//
// One statement reads a batch, one writes it. What a batch depends on besides
// its rows (the control document's epoch, this daemon's commit sequence) stands
// in one row that belongs to this daemon; see commit.go.
package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tapseal/tapseal/internal/state"
)

// An Engine is a state.Engine.
type Engine struct {
	o        Options
	base     *pgconn.Config
	conns    *pool
	together bool // one statement may change a table twice
	notifies bool // the server takes NOTIFY
	changed  chan struct{}
	counts   counts

	life   sync.RWMutex // read-locked by every operation
	closed bool         // guarded by life
	stop   context.CancelFunc
	done   sync.WaitGroup

	// committing is held by the one commit under way. The sequence makes them
	// wait for each other in any case: the row is locked until the data are
	// durable.
	committing chan struct{}
	holder     [16]byte // guarded by committing: what the instance's row must say for a commit to count
	doubt      bool     // guarded by committing: a commit or a fence may have happened

	acknowledged atomic.Uint64 // the last sequence that the database has told to be durable
	regressed    atomic.Bool
	foreign      atomic.Bool // another process goes by this instance's name
}

var _ state.Engine = (*Engine)(nil)

type counts struct {
	retries, deadlocks, reconnects, recovered, swept atomic.Uint64
}

// Stats counts what has happened since Open.
type Stats struct {
	Retries    uint64 // transactions that the database took back: serialization failures (40001)
	Deadlocks  uint64 // the same: 40P01
	Reconnects uint64 // times that all connections were given up
	Recovered  uint64 // commits in doubt that turned out not to have happened and were repeated
	Swept      uint64 // expired counters deleted
}

// Stats may be called at any time.
func (e *Engine) Stats() Stats {
	return Stats{
		Retries: e.counts.retries.Load(), Deadlocks: e.counts.deadlocks.Load(), Reconnects: e.counts.reconnects.Load(),
		Recovered: e.counts.recovered.Load(), Swept: e.counts.swept.Load(),
	}
}

// Open connects, checks server and schema, and takes the instance's name over.
// Errors besides those of the contract: ErrUnsafe, ErrNotMigrated,
// ErrNewerSchema.
func Open(ctx context.Context, o Options) (*Engine, error) {
	o = o.withDefaults()
	base, err := o.parse()
	if err != nil {
		return nil, err
	}
	e := &Engine{o: o, base: base, changed: make(chan struct{}, 1), committing: make(chan struct{}, 1)}
	// One pool, so that a commit goes to the server process that has just read
	// the same rows: it finds them in its processor's cache.
	const writers = 2 // a commit and a control document
	e.conns = newPool(o.Readers+writers, o.ConnectionLife, func(ctx context.Context) (*conn, error) {
		return connect(ctx, o, base)
	})
	if err := e.begin(ctx); err != nil {
		e.conns.close()
		return nil, err
	}
	background, stop := context.WithCancel(context.Background())
	e.stop = stop
	e.done.Go(func() { e.listen(background) })
	if o.Sweep > 0 {
		e.done.Go(func() { e.sweep(background) })
	}
	return e, nil
}

func (e *Engine) begin(ctx context.Context) error {
	c, _, err := e.conns.get(ctx)
	if err != nil {
		return opening(err)
	}
	defer func() { e.conns.put(c, err) }()
	e.together = c.kind == genuine || c.kind == yugabyte
	e.notifies = c.kind == genuine
	if err = checkSchema(ctx, c); err != nil {
		return opening(err)
	}
	if err = e.takeOver(ctx, c, 0); err != nil {
		return opening(err)
	}
	return nil
}

// opening keeps the errors that say what an operator has to do apart from a
// database that is away.
func opening(err error) error {
	for _, known := range []error{ErrUnsafe, ErrNotMigrated, ErrNewerSchema} {
		if errors.Is(err, known) {
			return fmt.Errorf("opening the state database: %w", err)
		}
	}
	return unavailable("opening the state database", err)
}

// operation begins one: it ends with the function that it returns.
func (e *Engine) operation(ctx context.Context) (context.Context, func(), error) {
	e.life.RLock()
	if e.closed {
		e.life.RUnlock()
		return nil, nil, fmt.Errorf("%w: it is closed", state.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	return ctx, func() { cancel(); e.life.RUnlock() }, nil
}

// Close waits for what is under way.
func (e *Engine) Close() error {
	e.life.Lock()
	already := e.closed
	e.closed = true
	e.life.Unlock()
	if already {
		return nil
	}
	e.stop()
	e.done.Wait()
	e.conns.close()
	return nil
}

// Changed fires when the server has sent a NOTIFY of another control document,
// and when such a message may have been missed.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

func (e *Engine) hint() {
	select {
	case e.changed <- struct{}{}:
	default:
	}
}

// standing gives the errors that stay.
func (e *Engine) standing() error {
	if e.foreign.Load() {
		return fmt.Errorf("%w: another process has taken over this instance's name", state.ErrBroken)
	}
	if e.regressed.Load() {
		return &state.LostCommits{Acknowledged: e.acknowledged.Load()}
	}
	return nil
}

// giveUp drops all connections after one was cut.
func (e *Engine) giveUp() {
	e.counts.reconnects.Add(1)
	e.conns.drop()
}

// backoff is how long to wait before attempt n (from 1) of a transaction that
// the database took back; random, so that two daemons do not meet again.
func backoff(ctx context.Context, n int) error {
	const first, longest = time.Millisecond, 64 * time.Millisecond
	span := min(first<<min(n-1, 16), longest)
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails
	wait := time.NewTimer(span/2 + span*time.Duration(b[0])/256)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
