package embedded

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
)

// queueLength is how many requests may wait for the committer, and for a sync.
const queueLength = 256

// A request is a change on its way through committer and syncer. It has copies
// of all that it needs, so that its caller may stop waiting at any time.
type request struct {
	stage func(*committer, *request) error // the committer's part: checks, and fills batch

	// Of a commit.
	epoch  uint64
	writes []write // in the order of keys
	ok     []bool  // for each row of the caller's batch: its versions were right
	data   []byte  // of writes

	document []byte // of SetControl
	least    uint64 // of SetControl
	sequence uint64 // of AcceptRegression; the result of a commit
	now      int64  // of a sweep, Unix seconds
	count    int    // the result of a sweep

	number  uint64         // of the change, 0 if there is none
	batch   *pebble.Batch  // nil if nothing is to be written
	control *state.Control // in force from now on, if not nil
	err     error
	done    chan struct{} // filled once, when err and the results are there
}

// A write is one record of a commit.
type write struct {
	key        state.Key
	version    uint64 // that it replaces
	start, end int    // of the record in data
	row        int    // of the caller's batch
	also       bool
	unknown    bool // the committer has to look the version up
	adds       [2]state.Add
}

func (e *Engine) newRequest(stage func(*committer, *request) error) *request {
	r, _ := e.free.Get().(*request)
	if r == nil {
		r = &request{done: make(chan struct{}, 1)}
	}
	*r = request{stage: stage, writes: r.writes[:0], ok: r.ok[:0], data: r.data[:0], done: r.done}
	return r
}

// do waits until a request is done. Its results may be read if there is no
// error; then the caller gives it back with e.free.Put.
func (e *Engine) do(ctx context.Context, doing string, r *request) error {
	select {
	case e.requests <- r:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", doing, state.ErrUnavailable, context.Cause(ctx))
	case <-e.medium.broken:
		return fmt.Errorf("%s: %w", doing, e.medium.err())
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", doing, state.ErrUnavailable, context.Cause(ctx))
	case <-e.medium.broken:
		select {
		case <-r.done: // before it broke
		default:
			return fmt.Errorf("%s: %w", doing, e.medium.err())
		}
	}
	if r.err != nil {
		return fmt.Errorf("%s: %w", doing, r.err)
	}
	return nil
}

// Commit writes the batch; see the contract.
func (e *Engine) Commit(ctx context.Context, b *state.Batch) error {
	const doing = "committing state"
	forget(b)
	if err := e.operation(ctx, doing); err != nil {
		return err
	}
	defer e.life.RUnlock()
	r := e.newRequest((*committer).stageCommit)
	if err := r.load(b); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := e.do(ctx, doing, r); err != nil {
		return err
	}
	b.Sequence = r.sequence
	for i := range r.writes {
		w := &r.writes[i]
		row := &b.Rows[w.row]
		if w.also {
			row = row.Also
		}
		row.Written = r.ok[w.row]
	}
	e.free.Put(r)
	return nil
}

// forget clears the results of an earlier commit.
func forget(b *state.Batch) {
	for i := range b.Rows {
		r := &b.Rows[i]
		r.Written = false
		if r.Also != nil {
			r.Also.Written = false
		}
	}
}

// load copies what a batch writes, and checks it.
func (r *request) load(b *state.Batch) error {
	if len(b.Rows) > state.MaxBatchRows {
		return fmt.Errorf("a batch of %d rows is longer than %d", len(b.Rows), state.MaxBatchRows)
	}
	r.epoch = b.Epoch
	for i := range b.Rows {
		row := &b.Rows[i]
		r.ok = append(r.ok, true)
		if row.Next == nil {
			continue
		}
		if err := r.write(row, i, false); err != nil {
			return err
		}
		if row.Also != nil && row.Also.Next != nil {
			if err := r.write(row.Also, i, true); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(r.writes, func(a, b write) int { return compareKeys(&a.key, &b.key) })
	for i := range r.writes {
		if i > 0 && r.writes[i].key == r.writes[i-1].key {
			return errors.New("a batch writes one record twice")
		}
	}
	return nil
}

func (r *request) write(row *state.Row, i int, also bool) error {
	if len(row.Next) == 0 || len(row.Next) > state.MaxRecordBytes {
		return fmt.Errorf("a record of %d bytes is not between 1 and %d", len(row.Next), state.MaxRecordBytes)
	}
	start := len(r.data)
	r.data = append(r.data, row.Next...)
	r.writes = append(r.writes, write{
		key: row.Key, version: row.Version, start: start, end: len(r.data), row: i, also: also, adds: row.Adds,
	})
	return nil
}
