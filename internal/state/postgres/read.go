package postgres

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// readRecords is one statement, so one snapshot and one round trip: records, and
// this instance's row (ordinal 0: the sequence, and the epoch).
// readBatch has counters as well (negative ordinals). What does not exist has no
// row.
const (
	readRecords = `
SELECT k.ord::int8, r.version, r.record, NULL::int8
FROM unnest($2::uuid[]) WITH ORDINALITY AS k(key, ord) JOIN tapseal_record r ON r.key = k.key
UNION ALL
SELECT 0::int8, sequence, NULL::bytea, epoch FROM tapseal_instance WHERE instance = $1`
	readBatch = readRecords + `
UNION ALL
SELECT -k.ord::int8, c.n, NULL::bytea, NULL::int8
FROM unnest($3::uuid[]) WITH ORDINALITY AS k(key, ord) JOIN tapseal_counter c ON c.key = k.key`
)

// Read fills in every row, its Also, every counter, and the epoch.
func (e *Engine) Read(ctx context.Context, b *state.Batch) error {
	ctx, end, err := e.operation(ctx)
	if err != nil {
		return err
	}
	defer end()
	return e.reading(ctx, "reading state", func(c *conn) error { return e.read(ctx, c, b) })
}

// reading is asking, unless the state cannot be trusted.
func (e *Engine) reading(ctx context.Context, doing string, f func(*conn) error) error {
	if err := e.standing(); err != nil {
		return err
	}
	return e.asking(ctx, doing, f)
}

// asking runs something that may be repeated: once more on a new connection if
// the one from the pool does not live any more, or leads to an old server.
func (e *Engine) asking(ctx context.Context, doing string, f func(*conn) error) error {
	for {
		c, fresh, err := e.conns.get(ctx)
		if err != nil {
			return unavailable(doing, err)
		}
		err = f(c)
		e.conns.put(c, err)
		if err == nil {
			return nil
		}
		if !answered(err) && ctx.Err() == nil {
			e.giveUp()
			if !fresh {
				continue
			}
		}
		if behind, ok := isBehind(err); ok && fresh {
			return e.regress(behind)
		}
		return unavailable(doing, err)
	}
}

// behindError: the server does not know of what it acknowledged.
type behindError struct{ sequence uint64 }

func (b behindError) Error() string {
	return fmt.Sprintf("the database is at commit %d of this instance", b.sequence)
}

func (e *Engine) read(ctx context.Context, c *conn, b *state.Batch) error {
	acknowledged := e.acknowledged.Load()
	e.readArguments(&c.args, b)
	forget(b)
	r := reader{batch: b, arena: make([]byte, 0, len(b.Rows)*arenaBytes)}
	sql := readRecords
	if len(b.Counters) > 0 {
		sql = readBatch
	}
	if err := c.run(ctx, sql, r.row); err != nil {
		return err
	}
	if r.sequence < acknowledged {
		return behindError{r.sequence}
	}
	return nil
}

// Keys of Also rows follow those of the rows.
func (e *Engine) readArguments(a *arguments, b *state.Batch) {
	a.reset()
	a.uuid(e.o.Instance)
	also := 0
	for i := range b.Rows {
		if b.Rows[i].Also != nil {
			also++
		}
	}
	a.array(oidUUID, len(b.Rows)+also)
	for i := range b.Rows {
		a.element(b.Rows[i].Key[:])
	}
	for i := range b.Rows {
		if r := b.Rows[i].Also; r != nil {
			a.element(r.Key[:])
		}
	}
	a.end()
	if len(b.Counters) == 0 {
		return
	}
	a.array(oidUUID, len(b.Counters))
	for i := range b.Counters {
		a.element(b.Counters[i].Key[:])
	}
	a.end()
}

// forget: what the database has no row for is not there.
func forget(b *state.Batch) {
	for i := range b.Rows {
		r := &b.Rows[i]
		r.Version, r.Record = 0, nil
		if r.Also != nil {
			r.Also.Version, r.Also.Record = 0, nil
		}
	}
	for i := range b.Counters {
		b.Counters[i].Value = 0
	}
	b.Epoch = 0
}

// arenaBytes is room for a record in the common case.
const arenaBytes = 72

// A reader sorts the rows of readBatch into a batch.
type reader struct {
	batch    *state.Batch
	also     []*state.Row // made at the first one
	arena    []byte       // the batch's memory
	sequence uint64
}

func (r *reader) row(values [][]byte) error {
	if len(values) != 4 || len(values[0]) != 8 {
		return errMalformed
	}
	number, err := readInt8(values[1])
	if err != nil {
		return err
	}
	ordinal := int64(binary.BigEndian.Uint64(values[0]))
	switch {
	case ordinal > 0:
		row := r.find(int(ordinal - 1))
		if row == nil {
			return errMalformed
		}
		row.Version, row.Record = number, r.keep(values[2])
	case ordinal < 0:
		i := int(-ordinal - 1)
		if i >= len(r.batch.Counters) {
			return errMalformed
		}
		r.batch.Counters[i].Value = number
	default:
		r.sequence = number
		if r.batch.Epoch, err = readInt8(values[3]); err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) find(i int) *state.Row {
	rows := r.batch.Rows
	if i < len(rows) {
		return &rows[i]
	}
	if r.also == nil {
		for k := range rows {
			if rows[k].Also != nil {
				r.also = append(r.also, rows[k].Also)
			}
		}
	}
	if i -= len(rows); i < len(r.also) {
		return r.also[i]
	}
	return nil
}

// keep copies a record out of the connection's buffer.
func (r *reader) keep(record []byte) []byte {
	if cap(r.arena)-len(r.arena) < len(record) {
		r.arena = make([]byte, 0, max(len(record), cap(r.arena), arenaBytes)) // what is there stays where it is
	}
	start := len(r.arena)
	r.arena = append(r.arena, record...)
	return r.arena[start:len(r.arena):len(r.arena)]
}
