package postgres

import (
	"context"
	"time"
)

const (
	sweepRows    = 500 // looked at in one statement
	sweepBatches = 20  // at most in one go, while half of the rows were expired
	// sweepGrace keeps counters a little longer than asked, for clocks that
	// differ.
	sweepGrace = 5 * time.Minute
)

// sweepCounters looks at a piece of the table behind key $1 and deletes what
// has expired before $3. It gives the number deleted and the last key looked
// at, or no key at the table's end. It waits for no lock, so that commits,
// which lock in another order, cannot get into a deadlock with it.
const sweepCounters = `WITH page AS (
	SELECT key FROM tapseal_counter WHERE key > $1 ORDER BY key LIMIT $2
), old AS (
	SELECT key FROM tapseal_counter WHERE key IN (SELECT key FROM page) AND expires < $3
	FOR UPDATE SKIP LOCKED
), gone AS (
	DELETE FROM tapseal_counter WHERE key IN (SELECT key FROM old) RETURNING 1
)
SELECT (SELECT count(*) FROM gone), (SELECT key FROM page ORDER BY key DESC LIMIT 1)`

// sweep deletes expired counters. Every daemon does so, each at a place of its
// own in the table; that two meet does no harm.
func (e *Engine) sweep(ctx context.Context) {
	tick := time.NewTicker(e.o.Sweep)
	defer tick.Stop()
	at := newHolder() // begin anywhere
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range sweepBatches {
			deleted, err := e.sweepOnce(ctx, &at, time.Now().Add(-sweepGrace))
			if err != nil || deleted < sweepRows/2 {
				break // an error shows in the operations that somebody waits for
			}
		}
	}
}

// sweepOnce looks at the next piece and moves at on.
func (e *Engine) sweepOnce(ctx context.Context, at *[16]byte, before time.Time) (deleted uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	c, _, err := e.conns.get(ctx)
	if err != nil {
		return 0, err
	}
	c.args.reset()
	c.args.uuid(*at)
	c.args.int8(sweepRows)
	c.args.int8(uint64(before.Unix()))
	err = c.run(ctx, sweepCounters, func(values [][]byte) (err error) {
		*at = [16]byte{}
		if len(values[1]) == len(at) {
			*at = [16]byte(values[1])
		}
		deleted, err = readInt8(values[0])
		return err
	})
	e.conns.put(c, err)
	e.counts.swept.Add(deleted)
	return deleted, err
}
