package embedded

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
)

// A committer is the goroutine that makes every change, one after another.
type committer struct {
	e        *Engine
	number   uint64 // of the last change
	sequence uint64 // of the last commit
	epoch    uint64 // of the control document
	cursor   []byte // no expiry entries are left before this key

	sums map[state.Key]int // of one commit's counters, to its place in list
	list []sum
}

type sum struct {
	key     state.Key
	n       uint64
	expires int64
}

func (c *committer) run() {
	defer close(c.e.syncing)
	for r := range c.e.requests {
		c.handle(r)
		c.e.syncing <- r
	}
}

// handle makes one change, as far as the log's memory. An error of its own does
// no harm to the next one.
func (c *committer) handle(r *request) {
	m := c.e.medium
	if err := r.stage(c, r); err != nil {
		if r.batch != nil {
			_ = r.batch.Close()
			r.batch = nil
		}
		r.err = err
		if !isAnswer(err) {
			m.poison("reading the database", clean(err))
			r.err = m.err()
		}
		return
	}
	if r.batch == nil {
		return
	}
	c.number++
	r.number = c.number
	c.e.known.begin(c.number, r) // before anybody can see it
	if m.err() == nil {
		// After this the batch is in memory, and in the queue for the log.
		if err := c.e.db.ApplyNoSyncWait(r.batch, pebble.Sync); err != nil {
			m.poison("writing to the database", clean(err))
		}
		c.e.known.applied.Store(c.number)
	}
	if err := m.err(); err != nil {
		r.err = err
	}
}

// isAnswer: nothing is wrong with the medium.
func isAnswer(err error) bool { return errors.Is(err, state.ErrControlChanged) }

// settle waits for the syncs, in the order of the changes, and answers. Once a
// change is durable all before it are, because they share a log.
func (e *Engine) settle() {
	for r := range e.syncing {
		if r.batch != nil && r.err == nil {
			if err := r.batch.SyncWait(); err != nil {
				e.medium.poison("syncing the log", clean(err))
			}
			r.err = e.medium.err()
			if r.err == nil {
				_ = r.batch.Close() // always nil
				e.publish(r)
			}
			r.batch = nil
		}
		r.done <- struct{}{}
	}
}

// publish makes a change's results those of the medium, before anybody is told.
func (e *Engine) publish(r *request) {
	if r.sequence != 0 {
		e.sequence.Store(r.sequence)
	}
	if r.control != nil {
		e.control.Store(r.control)
		select {
		case e.changed <- struct{}{}:
		default: // not yet taken
		}
	}
	e.durable.advance(r.number)
}

// stageCommit compares and sets. A commit that conflicts in every row has its
// sequence all the same.
func (c *committer) stageCommit(r *request) (err error) {
	if r.epoch != c.epoch {
		return fmt.Errorf("%w: its epoch is %d, not %d", state.ErrControlChanged, c.epoch, r.epoch)
	}
	v, err := c.e.view()
	if err != nil {
		return err
	}
	defer func() {
		if closing := v.Close(); err == nil {
			err = closing
		}
	}()
	if c.e.known.versions(r) > 0 {
		if err := v.compare(r); err != nil {
			return err
		}
	}
	const overhead = 64 // bytes of key, version and lengths
	r.batch = c.e.db.NewBatchWithSize(len(r.data) + (len(r.writes)+1)*overhead)
	c.setRecords(r)
	if err := c.setCounters(v, r.batch); err != nil {
		return err
	}
	c.sequence++
	r.sequence = c.sequence
	setNumber(r.batch, keySequence[:], r.sequence)
	return nil
}

// compare looks up the versions of what is not known.
func (v *view) compare(r *request) error {
	for i := range r.writes {
		w := &r.writes[i]
		if !w.unknown {
			continue
		}
		version, err := v.version(&w.key)
		if err != nil {
			return err
		}
		if version != w.version {
			r.ok[w.row] = false
		}
	}
	return nil
}

// setRecords writes the rows of which all versions were right, and collects what
// they count.
func (c *committer) setRecords(r *request) {
	var buf [spacedBytes]byte
	clear(c.sums)
	c.list = c.list[:0]
	for i := range r.writes {
		w := &r.writes[i]
		if !r.ok[w.row] {
			continue
		}
		op := r.batch.SetDeferred(spacedBytes, versionBytes+w.end-w.start)
		copy(op.Key, spaced(&buf, spaceRecord, &w.key))
		binary.BigEndian.PutUint64(op.Value, w.version+1)
		copy(op.Value[versionBytes:], r.data[w.start:w.end])
		_ = op.Finish() // always nil for a batch without an index
		if w.also {
			continue
		}
		for _, a := range w.adds {
			if a.N > 0 {
				c.add(a)
			}
		}
	}
}

func (c *committer) add(a state.Add) {
	i, ok := c.sums[a.Key]
	if !ok {
		i = len(c.list)
		c.sums[a.Key] = i
		c.list = append(c.list, sum{key: a.Key, expires: a.Expires})
	}
	s := &c.list[i]
	s.n += uint64(a.N)
	s.expires = max(s.expires, a.Expires)
}

// setCounters writes each counter once. A new one gets an entry under the hour
// in which it expires, for the sweeper.
func (c *committer) setCounters(v *view, b *pebble.Batch) error {
	var buf [spacedBytes]byte
	slices.SortFunc(c.list, func(a, b sum) int { return compareKeys(&a.key, &b.key) })
	for i := range c.list {
		s := &c.list[i]
		now, found, err := v.counter(&s.key)
		if err != nil {
			return err
		}
		before := expiryHour(now.expires)
		now.n += s.n
		now.expires = max(now.expires, s.expires)
		op := b.SetDeferred(spacedBytes, counterBytes)
		copy(op.Key, spaced(&buf, spaceCounter, &s.key))
		now.encode(op.Value)
		_ = op.Finish()
		if hour := expiryHour(now.expires); !found || hour != before {
			k := expiryKey(hour, &s.key)
			_ = b.Set(k[:], nil, nil)
			if bytes.Compare(k[:], c.cursor) < 0 {
				c.cursor = bytes.Clone(k[:])
			}
		}
	}
	return nil
}

func setNumber(b *pebble.Batch, key []byte, n uint64) {
	op := b.SetDeferred(len(key), 8)
	copy(op.Key, key)
	binary.BigEndian.PutUint64(op.Value, n)
	_ = op.Finish()
}
