package statetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/internal/state"
)

// likeTheModel runs random operations on an engine and on the model. One engine
// serves all runs; each has keys of its own and begins with the engine's epoch
// and sequence.
func likeTheModel(t *testing.T, e state.Engine) {
	run := 0
	rapid.Check(t, func(r *rapid.T) {
		run++
		c, err := e.Control(t.Context())
		if err != nil {
			r.Fatal(err)
		}
		p := &pair{t: t, engine: e, model: NewModel(), base: run * 1000}
		p.model.control = c
		if p.model.sequence, err = e.Sequence(t.Context()); err != nil {
			r.Fatal(err)
		}
		r.Repeat(map[string]func(*rapid.T){
			"read": p.read, "write": p.write, "commit": p.commit, "control": p.control, "accept": p.accept, "": p.check,
		})
	})
}

// A pair is an engine, the model, and a batch for each.
type pair struct {
	t       *testing.T
	engine  state.Engine
	model   *Model
	base    int                // of this run's keys
	batches [3][2]*state.Batch // read at different times
}

const pairKeys = 6

// read replaces a batch: distinct rows, some with a partner, and all counters.
func (p *pair) read(r *rapid.T) {
	slot := rapid.IntRange(0, len(p.batches)-1).Draw(r, "slot")
	keys := rapid.Permutation([]int{0, 1, 2, 3, 4, 5}).Draw(r, "keys")
	rows := rapid.IntRange(0, pairKeys/2).Draw(r, "rows")
	partners := rapid.SliceOfN(rapid.Bool(), rows, rows).Draw(r, "partners")
	for i := range 2 {
		b := &state.Batch{}
		for j := range rows {
			row := state.Row{Key: Key(p.base + keys[j])}
			if partners[j] {
				row.Also = &state.Row{Key: Key(p.base + keys[pairKeys-1-j])}
			}
			b.Rows = append(b.Rows, row)
		}
		for j := range 2 {
			b.Counters = append(b.Counters, state.Counter{Key: Key(p.base + 100 + j)})
		}
		p.batches[slot][i] = b
	}
	p.both(r, slot, "reading", state.Engine.Read)
	p.same(r, slot)
}

func (p *pair) both(r *rapid.T, slot int, what string, f func(state.Engine, context.Context, *state.Batch) error) {
	one := f(p.engine, p.t.Context(), p.batches[slot][0])
	two := f(p.model, p.t.Context(), p.batches[slot][1])
	if (one == nil) != (two == nil) || errors.Is(one, state.ErrControlChanged) != errors.Is(two, state.ErrControlChanged) {
		r.Fatalf("%s: %v, the model says %v", what, one, two)
	}
}

// same compares a batch with the model's. Versions are an engine's own.
func (p *pair) same(r *rapid.T, slot int) {
	var sides [2][]string
	for i := range sides {
		b := p.batches[slot][i]
		each(b, func(row *state.Row) {
			sides[i] = append(sides[i], fmt.Sprintf("%x %v %q %v", row.Key, row.Version > 0, row.Record, row.Written))
		})
		sides[i] = append(sides[i], fmt.Sprint(b.Counters, b.Epoch, b.Sequence))
	}
	if diff := cmp.Diff(sides[1], sides[0]); diff != "" {
		r.Fatalf("not like the model: %s", diff)
	}
}

// write fills in what a batch is to write.
func (p *pair) write(r *rapid.T) {
	slot := rapid.IntRange(0, len(p.batches)-1).Draw(r, "slot")
	if p.batches[slot][0] == nil {
		return
	}
	record := rapid.SliceOfN(rapid.Byte(), 1, 90)
	for j := range p.batches[slot][0].Rows {
		if !rapid.Bool().Draw(r, "next") {
			continue
		}
		next, also := record.Draw(r, "record"), record.Draw(r, "partner")
		n := rapid.Uint32Range(0, 3).Draw(r, "adds")
		counter := rapid.IntRange(0, 1).Draw(r, "counter")
		for i := range 2 {
			row := &p.batches[slot][i].Rows[j]
			row.Next = next
			row.Adds[0] = state.Add{Key: Key(p.base + 100 + counter), N: n, Expires: farAway}
			row.Adds[1] = state.Add{Key: Key(p.base + 100), N: n / 2, Expires: farAway}
			if row.Also != nil {
				row.Also.Next = also
			}
		}
	}
}

func (p *pair) commit(r *rapid.T) {
	slot := rapid.IntRange(0, len(p.batches)-1).Draw(r, "slot")
	if p.batches[slot][0] == nil {
		return
	}
	p.both(r, slot, "committing", state.Engine.Commit)
	p.same(r, slot)
}

func (p *pair) control(r *rapid.T) {
	if rapid.IntRange(0, 3).Draw(r, "rarely") != 0 {
		return
	}
	c := state.Control{Epoch: p.model.control.Epoch, Document: rapid.SliceOf(rapid.Byte()).Draw(r, "document")}
	c.Least = c.Epoch + rapid.Uint64Range(0, 3).Draw(r, "least")
	c.Epoch -= rapid.Uint64Range(0, min(1, c.Epoch)).Draw(r, "behind")
	one, err1 := p.engine.SetControl(p.t.Context(), c)
	two, err2 := p.model.SetControl(p.t.Context(), c)
	if one != two || errors.Is(err1, state.ErrControlChanged) != errors.Is(err2, state.ErrControlChanged) || (err1 == nil) != (err2 == nil) {
		r.Fatalf("epoch %d, %v; the model says %d, %v", one, err1, two, err2)
	}
}

func (p *pair) accept(r *rapid.T) {
	n := p.model.sequence + rapid.Uint64Range(0, 5).Draw(r, "ahead")
	n -= min(n, 2)
	if err := p.engine.AcceptRegression(p.t.Context(), n); err != nil {
		r.Fatal(err)
	}
	_ = p.model.AcceptRegression(p.t.Context(), n) // never fails
}

// check compares everything.
func (p *pair) check(r *rapid.T) {
	c, err := p.engine.Control(p.t.Context())
	if err != nil || c.Epoch != p.model.control.Epoch || string(c.Document) != string(p.model.control.Document) {
		r.Fatalf("epoch %d, the model's %d, or another document; %v", c.Epoch, p.model.control.Epoch, err)
	}
	n, err := p.engine.Sequence(p.t.Context())
	if err != nil || n != p.model.sequence {
		r.Fatalf("sequence %d, the model's %d, %v", n, p.model.sequence, err)
	}
}
