package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/tapseal/tapseal/internal/state"
)

// A plan is a batch in the order in which it is written.
type plan struct {
	changes []*state.Row // over a version
	inserts []*state.Row // where there is none
	pairs   []*state.Row // rows whose Also is to be written; all of them are in the two others too
	adds    int          // of changes and inserts

	refused map[*state.Row]bool // rows of pairs of which one is not as it was read
	written []*state.Row        // by the last statement or transaction
	tried   uint64              // the sequence with which the plan was last tried
}

// newPlan checks the batch and clears Written.
func newPlan(b *state.Batch) (*plan, error) {
	if len(b.Rows) > state.MaxBatchRows {
		return nil, fmt.Errorf("a batch of %d rows is longer than %d", len(b.Rows), state.MaxBatchRows)
	}
	p := &plan{changes: make([]*state.Row, 0, len(b.Rows))}
	for i := range b.Rows {
		r := &b.Rows[i]
		r.Written = false
		if r.Also != nil {
			r.Also.Written = false
		}
		if r.Next == nil {
			continue
		}
		p.row(r)
		if r.Also != nil && r.Also.Next != nil {
			p.row(r.Also)
			p.pairs = append(p.pairs, r)
		}
	}
	for _, rows := range [][]*state.Row{p.changes, p.inserts} {
		slices.SortFunc(rows, func(a, b *state.Row) int { return slices.Compare(a.Key[:], b.Key[:]) })
		for _, r := range rows {
			if len(r.Next) == 0 || len(r.Next) > state.MaxRecordBytes {
				return nil, fmt.Errorf("a record of %d bytes is not between 1 and %d", len(r.Next), state.MaxRecordBytes)
			}
		}
	}
	return p, nil
}

func (p *plan) row(r *state.Row) {
	if r.Version == 0 {
		p.inserts = append(p.inserts, r)
	} else {
		p.changes = append(p.changes, r)
	}
	for _, a := range r.Adds {
		if a.N > 0 {
			p.adds++
		}
	}
}

// find gives the row of a key.
func (p *plan) find(k state.Key) *state.Row {
	for _, rows := range [][]*state.Row{p.changes, p.inserts} {
		i, ok := slices.BinarySearchFunc(rows, k, func(r *state.Row, k state.Key) int { return slices.Compare(r.Key[:], k[:]) })
		if ok {
			return rows[i]
		}
	}
	return nil
}

// mark says which rows were written.
func (p *plan) mark() {
	for _, r := range p.written {
		r.Written = true
	}
}

// fits says that one statement can write the plan.
func (p *plan) fits(together bool) bool {
	return len(p.pairs) == 0 && (together || len(p.changes) == 0 || len(p.inserts) == 0)
}

// parts are what one statement each can write, without what is refused.
func (p *plan) parts(together bool) []*plan {
	changes, inserts := &plan{}, &plan{}
	if together {
		inserts = changes
	}
	for _, r := range p.changes {
		if !p.refused[r] {
			changes.row(r)
		}
	}
	for _, r := range p.inserts {
		if !p.refused[r] {
			inserts.row(r)
		}
	}
	if together {
		return []*plan{changes}
	}
	return []*plan{inserts, changes}
}

// pairsAreWhole says that of no pair one row alone was written.
func (p *plan) pairsAreWhole() bool {
	written := make(map[*state.Row]bool, len(p.written))
	for _, r := range p.written {
		written[r] = true
	}
	for _, r := range p.pairs {
		if written[r] != written[r.Also] {
			return false
		}
	}
	return true
}

// lockRecords locks in the order of keys, which ORDER BY makes sure of: the
// lock is taken on the sorted rows.
const lockRecords = `SELECT key, version FROM tapseal_record WHERE key = ANY($1::uuid[]) ORDER BY key FOR UPDATE`

// lockRows locks all records of the plan that exist and finds out which pairs
// cannot be written.
func (p *plan) lockRows(ctx context.Context, c *conn) error {
	c.args.reset()
	c.args.array(oidUUID, len(p.changes)+len(p.inserts))
	for _, rows := range [][]*state.Row{p.changes, p.inserts} {
		for _, r := range rows {
			c.args.element(r.Key[:])
		}
	}
	c.args.end()
	versions := make(map[state.Key]uint64)
	err := c.run(ctx, lockRecords, func(values [][]byte) error {
		if len(values) != 2 || len(values[0]) != state.KeyBytes {
			return errMalformed
		}
		version, err := readInt8(values[1])
		versions[state.Key(values[0])] = version
		return err
	})
	if err != nil {
		return err
	}
	p.refused = make(map[*state.Row]bool)
	for _, r := range p.pairs {
		if versions[r.Key] != r.Version || versions[r.Also.Key] != r.Also.Version {
			p.refused[r], p.refused[r.Also] = true, true
		}
	}
	return nil
}

// A guard is what the instance's row must say, and its next sequence.
type guard struct {
	expected, next, epoch uint64
	holder                [16]byte
}

// An instanceRow is what the database says of the guard; of the row itself only
// if the guard did not hold.
type instanceRow struct {
	held            bool // the guard's condition did
	sequence, epoch uint64
	mine            bool // the holder is this engine
}

func (r instanceRow) matches(g guard) bool {
	return r.mine && r.sequence == g.expected && r.epoch == g.epoch
}

// statement runs commitSQL, in a transaction of its own unless one is open, and
// says what the instance's row is if the guard refused.
func (p *plan) statement(ctx context.Context, c *conn, level Isolation, instance [16]byte, g guard) (found instanceRow, err error) {
	p.arguments(&c.args, instance, g)
	p.written = p.written[:0]
	sql := c.commitSQL(shape{changes: len(p.changes) > 0, inserts: len(p.inserts) > 0, adds: p.adds > 0})
	err = c.runAt(ctx, level, sql, func(values [][]byte) error {
		if len(values) != 2 {
			return errMalformed
		}
		held, err := readInt8(values[0])
		if err != nil {
			return err
		}
		found.held = held == 1
		return readKeys(values[1], func(k state.Key) error {
			r := p.find(k)
			if r == nil {
				return errMalformed
			}
			p.written = append(p.written, r)
			return nil
		})
	})
	if err != nil || found.held {
		return found, err
	}
	return readInstance(ctx, c, instance, g.holder)
}

const instanceSQL = `SELECT sequence, holder = $2, epoch FROM tapseal_instance WHERE instance = $1`

// readInstance gives the row of the instance, which nothing holds.
func readInstance(ctx context.Context, c *conn, instance, holder [16]byte) (r instanceRow, err error) {
	c.args.reset()
	c.args.uuid(instance)
	c.args.uuid(holder)
	err = c.run(ctx, instanceSQL, func(values [][]byte) (err error) {
		if len(values) != 3 || len(values[1]) != 1 {
			return errMalformed
		}
		r.mine = values[1][0] == 1
		if r.sequence, err = readInt8(values[0]); err != nil {
			return err
		}
		r.epoch, err = readInt8(values[2])
		return err
	})
	return r, err
}

// arguments are those of commitSQL.
func (p *plan) arguments(a *arguments, instance [16]byte, g guard) {
	a.reset()
	a.uuid(instance)
	a.int8(g.expected)
	a.int8(g.next)
	a.uuid(g.holder)
	a.int8(g.epoch)
	if len(p.changes) > 0 {
		keyArray(a, p.changes)
		a.array(oidInt8, len(p.changes))
		for _, r := range p.changes {
			a.element8(r.Version)
		}
		a.end()
		nextArray(a, p.changes)
	}
	if len(p.inserts) > 0 {
		keyArray(a, p.inserts)
		nextArray(a, p.inserts)
	}
	if p.adds > 0 {
		p.addArrays(a)
	}
}

func keyArray(a *arguments, rows []*state.Row) {
	a.array(oidUUID, len(rows))
	for _, r := range rows {
		a.element(r.Key[:])
	}
	a.end()
}

func nextArray(a *arguments, rows []*state.Row) {
	a.array(oidBytea, len(rows))
	for _, r := range rows {
		a.element(r.Next)
	}
	a.end()
}

func (p *plan) addArrays(a *arguments) {
	columns := []struct {
		oid  int
		each func(*state.Row, state.Add)
	}{
		{oidUUID, func(r *state.Row, _ state.Add) { a.element(r.Key[:]) }},
		{oidUUID, func(_ *state.Row, add state.Add) { a.element(add.Key[:]) }},
		{oidInt8, func(_ *state.Row, add state.Add) { a.element8(uint64(add.N)) }},
		{oidInt8, func(_ *state.Row, add state.Add) { a.element8(uint64(add.Expires)) }},
	}
	for _, c := range columns {
		a.array(c.oid, p.adds)
		for _, rows := range [][]*state.Row{p.changes, p.inserts} {
			for _, r := range rows {
				for _, add := range r.Adds {
					if add.N > 0 {
						c.each(r, add)
					}
				}
			}
		}
		a.end()
	}
}
