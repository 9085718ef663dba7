package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// How "nothing written" holds, and why nothing slips in between.
//
// Each daemon has a row in tapseal_instance: the sequence of its last commit,
// the holder (a random name for the engine that may commit), and the epoch of
// the control document. A commit begins with the guard, an UPDATE of that row
// under the condition that all three are what the engine expects. All else in
// the statement joins the guard's result, so that it writes nothing if the
// guard has found nothing, and locks no record before the guard has its row.
// The row stays locked until the commit is durable.
//
// SetControl changes the document and the epoch in the rows of all instances in
// one transaction. So it waits for each commit under way, and a commit that
// comes later finds another epoch, at READ COMMITTED because an UPDATE looks at
// the newest version of the row once it has the lock, at SERIALIZABLE because
// the database takes the commit back (40001) and the repetition finds it. The
// order is not only that of a serial history: once SetControl has returned, no
// commit of the old epoch can appear any more. A condition on tapseal_control
// itself would not give that at SERIALIZABLE, where a commit that began before
// may still end after it, and a lock on it would be one that all daemons
// contend for.
//
// Taking the name over (fence) is an UPDATE of the same row. It waits for a
// commit of which the connection was lost, and what arrives later finds another
// holder. So the sequence that it returns is final.
//
// Deadlocks: a commit locks its own instance row, then the records that it
// makes, then those that it changes, then counters, each in the order of keys.
// Making comes first because it waits for whoever changes the same record
// meanwhile, and holds then only what nobody else can see. SetControl locks the
// document, then instance rows, and nothing that a commit locks after its own.
// What is left (a pair, CockroachDB's two statements) the database resolves
// (40P01) after a second, and it is repeated.

// Commit writes the batch; see the contract. One commit of an engine runs at a
// time, others wait for it.
func (e *Engine) Commit(ctx context.Context, b *state.Batch) error {
	ctx, end, err := e.operation(ctx)
	if err != nil {
		return err
	}
	defer end()
	p, err := newPlan(b)
	if err != nil {
		return fmt.Errorf("committing state: %w", err)
	}
	if err := e.lock(ctx); err != nil {
		return unavailable("committing state", err)
	}
	defer e.unlock()
	const attempts = 3 // each on another connection
	for attempt := 1; ; attempt++ {
		err := e.commit(ctx, b, p)
		if err == nil {
			return nil
		}
		if !errors.Is(err, errCut) || attempt == attempts || ctx.Err() != nil {
			return unavailable("committing state", err)
		}
	}
}

func (e *Engine) lock(ctx context.Context) error {
	select {
	case e.committing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e *Engine) unlock() { <-e.committing }

// errCut: the connection is gone, and another one may tell what became of the
// commit.
var errCut = errors.New("the connection to the database was cut")

// commit settles what is in doubt, then tries to commit on one connection.
func (e *Engine) commit(ctx context.Context, b *state.Batch, p *plan) error {
	if err := e.standing(); err != nil {
		return err
	}
	c, fresh, err := e.conns.get(ctx)
	if err != nil {
		return err
	}
	if err := e.settle(ctx, c, fresh); err != nil {
		return e.spoilt(ctx, c, err)
	}
	acknowledged := e.acknowledged.Load()
	if p.tried > 0 {
		if acknowledged >= p.tried {
			e.conns.put(c, nil)
			return fmt.Errorf("%w: commit %d happened, but the database's answer was lost", state.ErrUnavailable, p.tried)
		}
		e.counts.recovered.Add(1)
	}
	if ctx.Err() != nil { // nothing was sent
		e.conns.put(c, nil)
		return context.Cause(ctx)
	}
	p.tried = acknowledged + 1
	e.doubt = true // until the database has said what became of it
	g := guard{expected: acknowledged, next: p.tried, epoch: b.Epoch, holder: e.holder}
	found, err := e.transact(ctx, c, p, g)
	if err != nil {
		return e.spoilt(ctx, c, err)
	}
	e.doubt = false
	if !found.held && found.sequence < g.expected && !fresh {
		p.tried = 0
		return e.spoilt(ctx, c, errBehind)
	}
	e.conns.put(c, nil)
	if !found.held {
		return e.refused(found, g)
	}
	e.acknowledged.Store(g.next)
	b.Sequence = g.next
	p.mark()
	return nil
}

// errBehind: a connection from the pool may lead to a server that is the primary
// no longer; only a new one tells whether commits are lost.
var errBehind = errors.New("the server behind an idle connection lacks commits")

// spoilt gives a connection up after an error.
func (e *Engine) spoilt(ctx context.Context, c *conn, err error) error {
	e.conns.put(c, err)
	if answered(err) || ctx.Err() != nil || errors.Is(err, errNotReplicated) || e.standing() != nil {
		return err
	}
	e.giveUp()
	return fmt.Errorf("%w: %w", errCut, err)
}

// refused says why the guard found nothing.
func (e *Engine) refused(found instanceRow, g guard) error {
	switch {
	case found.sequence < g.expected:
		return e.regress(found.sequence)
	case found.sequence > g.expected || !found.mine:
		e.foreign.Store(true)
		return e.standing()
	default:
		return fmt.Errorf("%w: its epoch is %d, not %d", state.ErrControlChanged, found.epoch, g.epoch)
	}
}

// transact runs the batch's transaction until the database keeps it, or the
// guard refuses it. Repeating is safe: what the database took back (40001,
// 40P01) has written nothing.
func (e *Engine) transact(ctx context.Context, c *conn, p *plan, g guard) (found instanceRow, err error) {
	err = e.repeat(ctx, func() error {
		c.warning = ""
		if p.fits(e.together) {
			found, err = p.statement(ctx, c, e.o.Isolation, e.o.Instance, g)
		} else {
			found, err = e.transaction(ctx, c, p, g)
		}
		if err == nil && !found.held && found.matches(g) {
			return errStale
		}
		if err == nil && c.warning != "" {
			return fmt.Errorf("%w: %s", errNotReplicated, c.warning)
		}
		return err
	})
	return found, err
}

var (
	// errStale: the guard refused because of a version of the instance's row
	// that is newer than the statement's snapshot.
	errStale = errors.New("the instance's row has changed meanwhile")
	// errPartly: another daemon made a row of a pair meanwhile.
	errPartly = errors.New("another daemon was faster")
	// errNotReplicated: the server warns, and commits all the same, if it was
	// made to give up waiting for its synchronous standby.
	errNotReplicated = errors.New("the database warned of a commit")
)

// repeat runs f again while the database takes it back.
func (e *Engine) repeat(ctx context.Context, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		switch {
		case err == nil:
			return nil
		case code(err) == deadlockDetected:
			e.counts.deadlocks.Add(1)
		case rolledBack(err), errors.Is(err, errStale), errors.Is(err, errPartly):
			e.counts.retries.Add(1)
		default:
			return err
		}
		if cut := backoff(ctx, n); cut != nil {
			return err
		}
	}
}

// transaction is the slower way: for pairs (Also), and where a statement may
// change a table once only. The guard comes first here too, see above.
func (e *Engine) transaction(ctx context.Context, c *conn, p *plan, g guard) (found instanceRow, err error) {
	if err := c.exec(ctx, e.o.Isolation.begin()); err != nil {
		return found, err
	}
	found, err = e.inTransaction(ctx, c, p, g)
	if err == nil && found.held {
		err = c.commit(ctx)
		return found, err
	}
	if undo := c.exec(ctx, "ROLLBACK"); err == nil {
		err = undo
	}
	return found, err
}

func (c *conn) commit(ctx context.Context) error {
	results, err := c.Exec(ctx, "COMMIT").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 1 || results[0].CommandTag.String() != "COMMIT" {
		return errNotCommitted
	}
	return nil
}

var errNotCommitted = errors.New("the database did not commit the transaction")

// inTheOpenOne is in place of a level for a statement of a transaction that has
// begun already.
const inTheOpenOne Isolation = ""

func (e *Engine) inTransaction(ctx context.Context, c *conn, p *plan, g guard) (found instanceRow, err error) {
	found, err = (&plan{}).statement(ctx, c, inTheOpenOne, e.o.Instance, g)
	if err != nil || !found.held {
		return found, err
	}
	if len(p.pairs) > 0 {
		if err := p.lockRows(ctx, c); err != nil {
			return found, err
		}
	}
	g.expected = g.next // this transaction's guard has set it
	p.written = p.written[:0]
	for _, part := range p.parts(e.together) {
		found, err = part.statement(ctx, c, inTheOpenOne, e.o.Instance, g)
		if err != nil {
			return found, err
		}
		if !found.held {
			return found, errors.New("the instance's row has changed within a transaction")
		}
		p.written = append(p.written, part.written...)
	}
	if !p.pairsAreWhole() {
		return found, errPartly
	}
	return found, nil
}
