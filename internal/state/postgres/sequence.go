package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// registerInstance makes the instance's row if there is none. It changes the
// document's row, to what it is, because SetControl must not miss the new one:
// that waits for the change, and then sees the row (READ COMMITTED), or is taken
// back and repeated (SERIALIZABLE). A lock would make it wait only.
const registerInstance = `
WITH c AS (
	UPDATE tapseal_control SET epoch = epoch
	WHERE id = 1 AND NOT EXISTS (SELECT 1 FROM tapseal_instance WHERE instance = $1)
	RETURNING epoch
)
INSERT INTO tapseal_instance (instance, sequence, holder, epoch)
SELECT $1, 0, $2, c.epoch FROM c
ON CONFLICT (instance) DO NOTHING`

const fenceInstance = `UPDATE tapseal_instance SET holder = $2, sequence = greatest(sequence, $3)
WHERE instance = $1 RETURNING sequence`

const readSequence = `SELECT sequence FROM tapseal_instance WHERE instance = $1`

// register is for a name that the database does not know.
func (e *Engine) register(ctx context.Context, c *conn) error {
	return e.repeat(ctx, func() error {
		c.args.reset()
		c.args.uuid(e.o.Instance)
		c.args.uuid(newHolder())
		return c.run(ctx, registerInstance, nil)
	})
}

func newHolder() (h [16]byte) {
	_, _ = rand.Read(h[:]) // never fails
	return h
}

// fence makes sure that no commit under way, on whichever connection, can
// happen any more, and gives the sequence that is then final; at least makes it
// higher if it is lower.
func (e *Engine) fence(ctx context.Context, c *conn, least uint64) (sequence uint64, exists bool, err error) {
	holder := newHolder()
	e.doubt = true // until it is known which holder the row has
	err = e.repeat(ctx, func() error {
		c.warning, exists = "", false
		c.args.reset()
		c.args.uuid(e.o.Instance)
		c.args.uuid(holder)
		c.args.int8(least)
		err := c.run(ctx, fenceInstance, func(values [][]byte) (err error) {
			exists = true
			sequence, err = readInt8(values[0])
			return err
		})
		if err == nil && c.warning != "" {
			return fmt.Errorf("%w: %s", errNotReplicated, c.warning)
		}
		return err
	})
	if err == nil && exists {
		e.holder, e.doubt = holder, false
	}
	return sequence, exists, err
}

// settle finds out, when a commit or a fence is in doubt, where the database is.
// A commit without its acknowledgement has moved it on by one. Without doubt the
// guard of the commit itself looks at all that may have happened since.
func (e *Engine) settle(ctx context.Context, c *conn, fresh bool) error {
	if !e.doubt {
		return nil
	}
	acknowledged := e.acknowledged.Load()
	sequence, exists, err := e.fence(ctx, c, 0)
	if err != nil {
		return err
	}
	if !exists || sequence < acknowledged {
		if !fresh {
			e.doubt = true
			return errBehind
		}
		return e.regress(sequence)
	}
	if sequence > acknowledged+1 {
		e.foreign.Store(true)
		return e.standing()
	}
	e.acknowledged.Store(sequence)
	return nil
}

// regress notes that the database has lost commits, until an operator accepts
// it.
func (e *Engine) regress(sequence uint64) error {
	if e.regressed.CompareAndSwap(false, true) {
		e.o.Log.Error("the state database is older than what it acknowledged; nothing is accepted until an operator agrees",
			"commit", sequence, "acknowledged", e.acknowledged.Load())
	}
	return e.standing()
}

// takeOver takes the database's sequence, or least if that is higher, as the
// instance's.
func (e *Engine) takeOver(ctx context.Context, c *conn, least uint64) error {
	if err := e.register(ctx, c); err != nil {
		return err
	}
	sequence, exists, err := e.fence(ctx, c, least)
	if err == nil && !exists {
		err = errors.New("the instance's row is gone")
	}
	if err != nil {
		return err
	}
	e.acknowledged.Store(sequence)
	e.regressed.Store(false)
	return nil
}

// AcceptRegression makes sequence this instance's last commit if the database's
// is lower, and ends ErrRegressed.
func (e *Engine) AcceptRegression(ctx context.Context, sequence uint64) error {
	const doing = "accepting the database's state"
	ctx, end, err := e.operation(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := e.lock(ctx); err != nil {
		return unavailable(doing, err)
	}
	defer e.unlock()
	if e.foreign.Load() {
		return e.standing()
	}
	c, _, err := e.conns.get(ctx)
	if err != nil {
		return unavailable(doing, err)
	}
	err = e.takeOver(ctx, c, sequence)
	e.conns.put(c, err)
	if err != nil {
		return unavailable(doing, err)
	}
	e.o.Log.Warn("the state database's sequence was accepted", "commit", e.acknowledged.Load())
	return nil
}

// Sequence is this instance's last commit as the database has it.
func (e *Engine) Sequence(ctx context.Context) (sequence uint64, err error) {
	ctx, end, err := e.operation(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	err = e.asking(ctx, "reading the commit sequence", func(c *conn) error {
		sequence = 0
		c.args.reset()
		c.args.uuid(e.o.Instance)
		return c.run(ctx, readSequence, func(values [][]byte) (err error) {
			sequence, err = readInt8(values[0])
			return err
		})
	})
	return sequence, err
}

// isBehind says that the server did not know of a commit.
func isBehind(err error) (sequence uint64, ok bool) {
	var b behindError
	ok = errors.As(err, &b)
	return b.sequence, ok
}
