package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
)

// A question to one token: a tap of an ATC in a request, or a suspension.
type question struct {
	token   int
	atc     uint16 // 1 to 15
	request uint8  // 1 to 3; 0: suspend or resume
	suspend bool
}

type answer struct {
	result    state.Result // 0: nobody knows
	freshness state.Freshness
}

// A card is what is true of a token: which request had each ATC.
type card struct {
	suspended bool
	accepted  [16]uint8
}

// acceptedOnce is the specification: an ATC is accepted in one request, a repeat
// of that is accepted again, everything else is a replay, a suspension wins.
func acceptedOnce() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byToken := map[int][]porcupine.Operation{}
			for _, o := range history {
				if q, ok := o.Input.(question); ok {
					byToken[q.token] = append(byToken[q.token], o)
				}
			}
			var parts [][]porcupine.Operation
			for _, p := range byToken {
				parts = append(parts, p)
			}
			return parts
		},
		Init:              func() []any { return []any{card{}} },
		Step:              func(s, in, out any) []any { return step(s.(card), in.(question), out.(answer)) },
		DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
	}
	return m.ToModel()
}

func step(c card, q question, a answer) []any {
	next, want := c, answer{}
	switch {
	case q.request == 0:
		next.suspended, want.result = q.suspend, state.Accept
	case c.accepted[q.atc] == q.request:
		want = answer{state.Accept, state.Repeated}
	case c.accepted[q.atc] != 0:
		want = answer{state.Reject, state.Replayed}
	default:
		want = answer{state.Accept, state.Fresh} // or late, which comes to the same
		if !c.suspended {
			next.accepted[q.atc] = q.request
		}
	}
	if q.request != 0 && c.suspended {
		want.result = state.Reject
	}
	switch a {
	case answer{}:
		return []any{c, next}
	case want:
		return []any{next}
	}
	return nil
}

// 64 callers of two stores on one engine, which now and then does not say
// whether it has written: what they are told has an order in which every
// cryptogram was accepted once.
func TestLinearizable(t *testing.T) {
	t.Parallel()
	engines(t, func(t *testing.T, below state.Engine) {
		const callers, rounds, tokens = 64, 30, 12
		e := wrap(below)
		var n atomic.Uint32
		unavailable := func(*state.Batch) error {
			if n.Add(1)%23 == 0 {
				return fmt.Errorf("now and then: %w", state.ErrUnavailable)
			}
			return nil
		}
		e.set(&e.commit, unavailable)
		e.set(&e.after, unavailable)
		stores := []*store.Store{open(t, e, store.Options{}), open(t, e, store.Options{})}
		begun := time.Now()
		histories := make([][]porcupine.Operation, callers)
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(uint64(c), 7))
				for range rounds {
					q := question{token: random.IntN(tokens), atc: uint16(random.IntN(15) + 1), request: uint8(random.IntN(4))}
					q.suspend = random.IntN(2) == 0
					if q.request == 0 && random.IntN(4) != 0 {
						q.request = 1
					}
					call := int64(time.Since(begun))
					a := put(t, stores[random.IntN(2)], q)
					histories[c] = append(histories[c], porcupine.Operation{
						ClientId: c, Input: q, Call: call, Output: a, Return: int64(time.Since(begun)),
					})
				}
			})
		}
		wg.Wait()
		var all []porcupine.Operation
		unknown := 0
		for _, h := range histories {
			for _, o := range h {
				if o.Output == (answer{}) {
					unknown++
					o.Return = int64(time.Hour) // it may happen at any time from here on
				}
				all = append(all, o)
			}
		}
		if r := porcupine.CheckOperationsTimeout(acceptedOnce(), all, 2*time.Minute); r != porcupine.Ok {
			t.Errorf("the history of %d operations, %d unknown: %v", len(all), unknown, r)
		}
		t.Logf("%d operations, %d unknown; conflicts %d and %d", len(all), unknown, stores[0].Stats().Conflicts, stores[1].Stats().Conflicts)
	})
}

func put(t *testing.T, s *store.Store, q question) answer {
	if q.request == 0 {
		c := state.Change{Status: state.Active}
		if q.suspend {
			c.Status = state.Suspended
		}
		_, _, err := s.Change(context.Background(), [2]store.Subject{subject(1, q.token)}, c)
		if err != nil {
			return answer{}
		}
		return answer{result: state.Accept}
	}
	op := tap(q.token, q.atc, uint32(q.request), policy(func(p *state.Policy) { p.Remember, p.MaxJump = state.MaxAccepted, 0 }))
	ask(t, s, op)
	if op.Outcome.Freshness == state.Late {
		op.Outcome.Freshness = state.Fresh
	}
	return answer{op.Outcome.Result, op.Outcome.Freshness}
}

// Each cryptogram is sent eight times at once, in five requests, to two stores:
// one accepts it, the repeats of that request are repeats, the rest are replays.
//
// TAPSEAL_LONG=1 sends a million of them instead of a hundred thousand.
func TestDuplicates(t *testing.T) {
	t.Parallel()
	cryptograms := map[bool]int{false: 100_000, true: 1_000_000}[os.Getenv("TAPSEAL_LONG") == "1"]
	if testing.Short() {
		cryptograms /= 10
	}
	engines(t, func(t *testing.T, e state.Engine) {
		const tokens, copies, senders = 1000, 8, 8
		stores := []*store.Store{open(t, e, store.Options{}), open(t, e, store.Options{})}
		accepted := 0
		for round := range cryptograms / tokens {
			var wg sync.WaitGroup
			sent := make([][]*store.Op, senders)
			for c := range senders {
				wg.Go(func() { sent[c] = send(t, stores[c%2], c, uint16(round), tokens) })
			}
			wg.Wait()
			accepted += checkRound(t, sent, tokens)
			if t.Failed() {
				return
			}
		}
		if accepted != cryptograms {
			t.Errorf("%d of %d cryptograms were accepted", accepted, cryptograms)
		}
		t.Logf("%d cryptograms, %d copies each; conflicts %d and %d", cryptograms, copies, stores[0].Stats().Conflicts, stores[1].Stats().Conflicts)
	})
}

// send sends one copy of each token's cryptogram, again where nobody can tell.
func send(t *testing.T, s *store.Store, sender int, atc uint16, tokens int) []*store.Op {
	p := state.DefaultPolicy()
	d := newDesk()
	ops := make([]*store.Op, tokens)
	request := uint32(sender % 5) // three of them are sent twice
	for i, token := range rand.New(rand.NewPCG(uint64(sender), uint64(atc))).Perm(tokens) {
		ops[i] = tap(token, atc, request)
		ops[i].Event.Policy, ops[i].Sink = &p, d
	}
	for waiting := ops; len(waiting) > 0; {
		s.Submit(waiting...)
		d.take(t, len(waiting))
		var again []*store.Op
		for _, op := range waiting {
			if errors.Is(op.Err, store.ErrBusy) {
				again = append(again, op)
			} else if op.Err != nil {
				t.Error(op.Err)
			}
		}
		waiting = again
	}
	return ops
}

func checkRound(t *testing.T, sent [][]*store.Op, tokens int) (accepted int) {
	by := make(map[store.Subject]state.Digest, tokens)
	for _, ops := range sent {
		for _, op := range ops {
			if !once(op) {
				continue
			}
			accepted++
			if _, twice := by[op.Subjects[0]]; twice {
				t.Errorf("ATC %d was accepted twice", op.Event.ATC)
			}
			by[op.Subjects[0]] = op.Event.Requests[0]
		}
	}
	for _, ops := range sent {
		for _, op := range ops {
			switch same := by[op.Subjects[0]] == op.Event.Requests[0]; {
			case once(op):
			case same && op.Outcome.Freshness != state.Repeated:
				t.Errorf("a repeat: %+v", op.Outcome)
			case !same && (op.Outcome.Result != state.Reject || op.Outcome.Freshness != state.Replayed):
				t.Errorf("another request: %+v", op.Outcome)
			}
		}
	}
	return accepted
}
