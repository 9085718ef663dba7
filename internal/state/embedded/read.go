package embedded

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
)

// A lookup is the memory of one Read.
type lookup struct {
	rows     []*state.Row
	counters []*state.Counter
}

// A view is the database at one moment.
type view struct {
	*pebble.Iterator
	buf [spacedBytes]byte
}

func (e *Engine) view() (*view, error) {
	i, err := e.db.NewIter(nil)
	if err != nil {
		return nil, err
	}
	return &view{Iterator: i}, nil
}

// find gives the value of a key, which is valid until the next call. Keys that
// ascend are found faster.
func (v *view) find(space byte, k *state.Key) (value []byte, found bool, err error) {
	if !v.SeekPrefixGE(spaced(&v.buf, space, k)) { // its prefix is the whole key
		return nil, false, v.Error()
	}
	value, err = v.ValueAndErr()
	return value, true, err
}

// version gives that of a record, 0 if there is none.
func (v *view) version(k *state.Key) (uint64, error) {
	value, found, err := v.find(spaceRecord, k)
	if err != nil || !found {
		return 0, err
	}
	if len(value) <= versionBytes {
		return 0, errDamaged
	}
	return binary.BigEndian.Uint64(value), nil
}

func (v *view) counter(k *state.Key) (c counter, found bool, err error) {
	value, found, err := v.find(spaceCounter, k)
	if err != nil || !found {
		return counter{}, false, err
	}
	c, err = decodeCounter(value)
	return c, true, err
}

// Read fills in every row, its Also, every counter, and the epoch, all as they
// were at one moment.
func (e *Engine) Read(ctx context.Context, b *state.Batch) error {
	const doing = "reading state"
	if err := e.operation(ctx, doing); err != nil {
		return err
	}
	defer e.life.RUnlock()
	b.Epoch = e.control.Load().Epoch // first: a commit finds out if it has changed since
	if err := e.read(b); err != nil {
		if e.medium.err() == nil {
			e.medium.poison("reading the database", clean(err))
		}
		return fmt.Errorf("%s: %w", doing, e.medium.err())
	}
	return e.settled(ctx, doing)
}

// settled waits until everything that may have been visible by now is durable.
func (e *Engine) settled(ctx context.Context, doing string) error {
	n := e.known.begun.Load()
	for {
		advanced := e.durable.reached(n)
		if advanced == nil {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", doing, state.ErrUnavailable, context.Cause(ctx))
		case <-e.medium.broken:
			return fmt.Errorf("%s: %w", doing, e.medium.err())
		}
	}
}

func (e *Engine) read(b *state.Batch) (err error) {
	l, _ := e.lookups.Get().(*lookup)
	if l == nil {
		l = &lookup{}
	}
	defer e.lookups.Put(l)
	l.sort(b)
	defer l.forget()
	applied := e.known.applied.Load() // before the view
	v, err := e.view()
	if err != nil {
		return err
	}
	defer func() {
		if closing := v.Close(); err == nil {
			err = closing
		}
	}()
	a := arena{next: len(l.rows) * commonBytes}
	for _, r := range l.rows {
		if err := v.row(r, &a); err != nil {
			return err
		}
	}
	for _, c := range l.counters {
		counted, _, err := v.counter(&c.Key)
		if err != nil {
			return err
		}
		c.Value = counted.n
	}
	e.known.learn(applied, l.rows)
	return nil
}

func (v *view) row(r *state.Row, a *arena) error {
	r.Version, r.Record = 0, nil
	value, found, err := v.find(spaceRecord, &r.Key)
	if err != nil || !found {
		return err
	}
	if len(value) <= versionBytes {
		return errDamaged
	}
	r.Version, r.Record = binary.BigEndian.Uint64(value), a.keep(value[versionBytes:])
	return nil
}

// sort brings what is to be read into the order of keys.
func (l *lookup) sort(b *state.Batch) {
	for i := range b.Rows {
		r := &b.Rows[i]
		l.rows = append(l.rows, r)
		if r.Also != nil {
			l.rows = append(l.rows, r.Also)
		}
	}
	for i := range b.Counters {
		l.counters = append(l.counters, &b.Counters[i])
	}
	slices.SortFunc(l.rows, func(a, b *state.Row) int { return compareKeys(&a.Key, &b.Key) })
	slices.SortFunc(l.counters, func(a, b *state.Counter) int { return compareKeys(&a.Key, &b.Key) })
}

// forget lets go of the caller's batch.
func (l *lookup) forget() {
	clear(l.rows)
	clear(l.counters)
	l.rows, l.counters = l.rows[:0], l.counters[:0]
}

func compareKeys(a, b *state.Key) int {
	const half = state.KeyBytes / 2
	x, y := binary.BigEndian.Uint64(a[:half]), binary.BigEndian.Uint64(b[:half])
	if x == y {
		x, y = binary.BigEndian.Uint64(a[half:]), binary.BigEndian.Uint64(b[half:])
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// commonBytes is room for a record in the common case.
const commonBytes = 72

// An arena is memory that a batch's records share.
type arena struct {
	buf  []byte
	next int // bytes of the first piece
}

func (a *arena) keep(record []byte) []byte {
	if cap(a.buf)-len(a.buf) < len(record) {
		a.buf = make([]byte, 0, max(len(record), a.next)) // what is there stays where it is
	}
	start := len(a.buf)
	a.buf = append(a.buf, record...)
	return a.buf[start:len(a.buf):len(a.buf)]
}

// A watermark is a number that grows, and that goroutines can wait for.
type watermark struct {
	mu       sync.Mutex
	n        uint64
	advanced chan struct{} // nil while nobody waits
}

// reached gives nil if n is, else a channel that is closed when the watermark
// moves.
func (w *watermark) reached(n uint64) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.n >= n {
		return nil
	}
	if w.advanced == nil {
		w.advanced = make(chan struct{})
	}
	return w.advanced
}

func (w *watermark) advance(n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n = n
	if w.advanced != nil {
		close(w.advanced)
		w.advanced = nil
	}
}
