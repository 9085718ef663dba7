package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
)

const (
	// sweepEntries are looked at in one change, so that commits wait a
	// millisecond at most.
	sweepEntries = 512
	// sweepRounds at most in one go: 10,000 counters a second.
	sweepRounds = 20
	// sweepGrace keeps counters a little longer than asked, for a clock that is
	// set back.
	sweepGrace = 5 * time.Minute
)

// sweep deletes expired counters. It finds them by their expiry entries, so it
// costs something for each counter that expires, once, and nothing for those
// that are there.
func (e *Engine) sweep() {
	tick := time.NewTicker(e.o.Sweep)
	defer tick.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-e.stop:
			return
		case <-e.medium.broken:
			return
		case <-tick.C:
		}
		for range sweepRounds {
			if n, err := e.sweepOnce(ctx); err != nil || n < sweepEntries {
				break // an error shows in the operations that somebody waits for
			}
		}
	}
}

// sweepOnce gives the number of entries that it has looked at.
func (e *Engine) sweepOnce(ctx context.Context) (int, error) {
	const doing = "deleting expired counters"
	if err := e.operation(ctx, doing); err != nil {
		return 0, err
	}
	defer e.life.RUnlock()
	r := e.newRequest((*committer).stageSweep)
	r.now = e.o.Now().Add(-sweepGrace).Unix()
	if err := e.do(ctx, doing, r); err != nil {
		return 0, err
	}
	n := r.count
	e.free.Put(r)
	return n, nil
}

// stageSweep deletes the counters of the oldest expiry entries, and the entries
// as one range. An entry of a counter that lives longer by now is deleted alone:
// the counter has another one.
func (c *committer) stageSweep(r *request) (err error) {
	// Beginning where the last one ended: deleted entries cost time until they
	// are compacted away.
	lower, upper := c.cursor, hourKey(expiryHour(r.now))
	if bytes.Compare(lower, upper) >= 0 {
		return nil
	}
	entries, err := c.e.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	defer func() {
		if closing := entries.Close(); err == nil {
			err = closing
		}
	}()
	v, err := c.e.view()
	if err != nil {
		return err
	}
	defer func() {
		if closing := v.Close(); err == nil {
			err = closing
		}
	}()
	r.batch = c.e.db.NewBatch()
	last, err := c.deleteExpired(r, entries, v)
	if err != nil {
		return err
	}
	if r.count == 0 {
		c.cursor = upper
		batch := r.batch
		r.batch = nil
		return batch.Close()
	}
	c.cursor = append(bytes.Clone(last), 0)
	return r.batch.DeleteRange(lower, c.cursor, nil)
}

// deleteExpired looks at up to sweepEntries entries, and gives the last one.
func (c *committer) deleteExpired(r *request, entries *pebble.Iterator, v *view) (last []byte, err error) {
	var buf [spacedBytes]byte
	for entries.First(); entries.Valid() && r.count < sweepEntries; entries.Next() {
		k := entries.Key()
		if len(k) != expiryBytes {
			return nil, errDamaged
		}
		last = append(last[:0], k...)
		r.count++
		key := state.Key(k[5:])
		now, found, err := v.counter(&key)
		if err != nil {
			return nil, err
		}
		if found && now.expires <= r.now {
			if err := r.batch.Delete(spaced(&buf, spaceCounter, &key), nil); err != nil {
				return nil, err
			}
			c.e.swept.Add(1)
		}
	}
	return last, entries.Error()
}

func hourKey(hour uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceExpiry}, hour)
}
