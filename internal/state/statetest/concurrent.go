package statetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tapseal/tapseal/internal/state"
)

// A register is one record of a history. Every write has another value, so the
// value says which write was read.
type (
	registerInput struct {
		key      int
		write    bool
		expected string // of the record that was read
		value    string
	}
	registerOutput struct {
		value   string // of a read
		written bool
	}
)

// register is compare-and-set of one record; a conflict is one that has
// happened, never a guess.
func register() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := make(map[int][]porcupine.Operation)
			for _, op := range history {
				key := op.Input.(registerInput).key //nolint:errcheck // made below
				byKey[key] = append(byKey[key], op)
			}
			var parts [][]porcupine.Operation
			for _, part := range byKey {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return "" },
		Step: func(now, input, output any) (bool, any) {
			in, out := input.(registerInput), output.(registerOutput) //nolint:errcheck // made below
			switch {
			case !in.write:
				return out.value == now, now
			case out.written:
				return in.expected == now, in.value
			default:
				return in.expected != now, now
			}
		},
	}
}

// A history is what callers saw, in the order of one clock.
type history struct {
	mu    sync.Mutex
	begun time.Time
	ops   []porcupine.Operation
	names map[string]uint64 // version of each value
}

func (h *history) now() int64 { return int64(time.Since(h.begun)) }

func (h *history) add(t *testing.T, ops []porcupine.Operation, b *state.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, ops...)
	for i := range b.Rows {
		r := &b.Rows[i]
		value := string(r.Record)
		if value == "" {
			continue
		}
		if seen, ok := h.names[value]; ok && seen != r.Version {
			t.Errorf("%q has versions %d and %d", value, seen, r.Version)
		}
		h.names[value] = r.Version
	}
}

// 64 callers on 16 records: each record's history is that of one register.
func linearizable(t *testing.T, e state.Engine) {
	const callers, rounds, keys = 64, 25, 16
	h := &history{begun: time.Now(), names: make(map[string]uint64)}
	var group sync.WaitGroup
	for g := range callers {
		group.Go(func() {
			for round := range rounds {
				if t.Failed() {
					return
				}
				h.round(t, e, g, round, keys)
			}
		})
	}
	group.Wait()
	result := porcupine.CheckOperationsTimeout(register(), h.ops, 2*time.Minute)
	written := 0
	for _, op := range h.ops {
		if op.Output.(registerOutput).written { //nolint:errcheck // made below
			written++
		}
	}
	t.Logf("%d operations, %d writes: %v", len(h.ops), written, result)
	if result != porcupine.Ok {
		t.Errorf("the history is not linearizable: %v", result)
	}
}

// round is one caller's Read and Commit of up to three records.
func (h *history) round(t *testing.T, e state.Engine, g, round, keys int) {
	b := &state.Batch{}
	first := (g*7 + round*5) % keys
	for i := range 1 + (g+round)%3 {
		b.Rows = append(b.Rows, state.Row{Key: Key((first + i) % keys)})
	}
	call := h.now()
	if err := e.Read(t.Context(), b); err != nil {
		t.Error(err)
		return
	}
	end := h.now()
	var ops []porcupine.Operation
	for i := range b.Rows {
		ops = append(ops, porcupine.Operation{
			ClientId: g, Input: registerInput{key: (first + i) % keys}, Call: call,
			Output: registerOutput{value: string(b.Rows[i].Record)}, Return: end,
		})
		b.Rows[i].Next = fmt.Appendf(nil, "%d.%d.%d", g, round, i)
	}
	call = h.now()
	if err := e.Commit(t.Context(), b); err != nil {
		t.Error(err)
		return
	}
	end = h.now()
	for i := range b.Rows {
		r := &b.Rows[i]
		ops = append(ops, porcupine.Operation{
			ClientId: g, Call: call, Return: end,
			Input:  registerInput{key: (first + i) % keys, write: true, expected: string(r.Record), value: string(r.Next)},
			Output: registerOutput{written: r.Written},
		})
	}
	h.add(t, ops, b)
}

// Every write counts once, and only then.
func callersShareCounters(t *testing.T, e state.Engine) {
	const callers, rounds, keys = 16, 20, 8
	var written, sequences atomic.Uint64
	var seen sync.Map
	var group sync.WaitGroup
	for g := range callers {
		group.Go(func() {
			for round := range rounds {
				b := read(t, e, batch((g+round)%keys, (g+round+1)%keys))
				for i := range b.Rows {
					b.Rows[i].Next = []byte("x")
					b.Rows[i].Adds = [2]state.Add{{Key: Key(100), N: 1, Expires: farAway}, {Key: Key(101 + g), N: 3, Expires: farAway}}
				}
				commit(t, e, b)
				if _, twice := seen.LoadOrStore(b.Sequence, true); twice {
					t.Errorf("two commits are number %d", b.Sequence)
				}
				sequences.Add(1)
				for i := range b.Rows {
					if b.Rows[i].Written {
						written.Add(1)
					}
				}
			}
		})
	}
	group.Wait()
	if n := count(t, e, 100); n != written.Load() {
		t.Errorf("counted %d of %d", n, written.Load())
	}
	var sum uint64
	for g := range callers {
		sum += count(t, e, 101+g)
	}
	if sum != 3*written.Load() {
		t.Errorf("counted %d of %d", sum, 3*written.Load())
	}
	if n, err := e.Sequence(t.Context()); err != nil || n != sequences.Load() {
		t.Errorf("sequence %d after %d commits, %v", n, sequences.Load(), err)
	}
}

// Records that are always written in pairs are always alike, also for readers in
// between: Read sees one moment.
func pairsUnderContention(t *testing.T, e state.Engine) {
	const callers, rounds, keys = 16, 20, 4
	var group sync.WaitGroup
	for g := range callers {
		group.Go(func() {
			for round := range rounds {
				first, second := (g+round)%keys, 1000+(g+round)%keys
				if g%2 == 1 {
					first, second = second, first
				}
				b := batch(first)
				b.Rows[0].Also = &state.Row{Key: Key(second)}
				read(t, e, b)
				r := &b.Rows[0]
				if string(r.Record) != string(r.Also.Record) {
					t.Errorf("a pair is %q and %q", r.Record, r.Also.Record)
				}
				r.Next = fmt.Appendf(nil, "%d.%d", g, round)
				r.Also.Next = r.Next
				commit(t, e, b)
				if r.Written != r.Also.Written {
					t.Error("half a pair was written")
				}
			}
		})
	}
	group.Wait()
}

// A caller that does not wait leaves a commit that happened or did not, whole.
func abandoned(t *testing.T, e state.Engine) {
	const callers, rounds = 8, 30
	var group sync.WaitGroup
	for g := range callers {
		group.Go(func() {
			for round := range rounds {
				b := read(t, e, batch(2*g, 2*g+1))
				for i := range b.Rows {
					b.Rows[i].Next = fmt.Appendf(nil, "%d.%d", g, round)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(round*20)*time.Microsecond)
				err := e.Commit(ctx, b)
				cancel()
				for i := range b.Rows {
					copy(b.Rows[i].Next, "XXXXXXXXXX") // is the caller's again
				}
				if err != nil && !errors.Is(err, state.ErrUnavailable) {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	for g := range callers {
		put(t, e, 5000+g, "behind them all")
		b := read(t, e, batch(2*g, 2*g+1))
		if one, two := string(b.Rows[0].Record), string(b.Rows[1].Record); one != two || len(one) > 0 && one[0] == 'X' {
			t.Errorf("a commit is half there: %q, %q", one, two)
		}
	}
}
