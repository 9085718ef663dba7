package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapseal/tapseal/internal/state"
)

// Bounds of the store.
const (
	// MaxBatch operations share one durable write at most. More would let the
	// first ones wait without saving much.
	MaxBatch = 256
	// maxAttempts at one operation that others overtake.
	maxAttempts = 10
	// controlEvery is how often the control document is looked at while nobody
	// taps; each batch looks for itself.
	controlEvery = 500 * time.Millisecond
	// commitTimeout bounds one read or commit, so that an engine which hangs
	// costs UNKNOWN answers and not the service.
	commitTimeout = 5 * time.Second
)

// Options of a Store. The zero value is usable.
type Options struct {
	Log *slog.Logger
	// Instance names this one of several on the same state, for people; empty for
	// the only one.
	Instance string
	// OnCommit is told of every batch: operations and how long it took.
	OnCommit func(ops int, took time.Duration)
	// Now is the clock, for tests.
	Now func() time.Time
}

// A Store decides operations over one engine. Its methods may be called
// concurrently.
type Store struct {
	engine state.Engine
	o      Options

	mu      sync.Mutex
	waiting []*Op
	resting []*Op
	closed  bool
	wake    chan struct{}
	stopped chan struct{}
	ctx     context.Context //nolint:containedctx // ends with Close
	cancel  context.CancelFunc

	rules  atomic.Pointer[epochRules]
	failed chan error
	stats  counters

	// The goroutine's own.
	work work
	told time.Time // when the others were last told of a loss
}

type epochRules struct {
	epoch uint64
	rules *state.Rules
}

type counters struct {
	ops, batches, conflicts, unavailable atomic.Uint64
	lastError                            atomic.Pointer[string]
	reachable                            atomic.Bool
}

// Stats are what metrics and status say of a store.
type Stats struct {
	Ops, Batches, Conflicts, Unavailable uint64
	Reachable                            bool
	LastError                            string // of the last failure, empty while reachable
}

// New starts a store. The engine stays the caller's to close, after Close.
func New(ctx context.Context, engine state.Engine, o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{
		engine: engine, o: o,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), failed: make(chan error, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.loadRules(ctx); err != nil {
		s.cancel()
		return nil, err
	}
	s.stats.reachable.Store(true)
	go s.run()
	return s, nil
}

// Failed gives the reason why the process must end.
func (s *Store) Failed() <-chan error { return s.failed }

// Rules are the control document in force, read only.
func (s *Store) Rules() *state.Rules { return s.rules.Load().rules }

// Stats tells how the store is.
func (s *Store) Stats() Stats {
	out := Stats{
		Ops: s.stats.ops.Load(), Batches: s.stats.batches.Load(), Conflicts: s.stats.conflicts.Load(),
		Unavailable: s.stats.unavailable.Load(), Reachable: s.stats.reachable.Load(),
	}
	if e := s.stats.lastError.Load(); e != nil && !out.Reachable {
		out.LastError = *e
	}
	return out
}

// Submit takes operations and never blocks.
func (s *Store) Submit(ops ...*Op) {
	if len(ops) == 0 {
		return
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.waiting = append(s.waiting, ops...)
	}
	s.mu.Unlock()
	if closed {
		for _, op := range ops {
			op.Outcome, op.Err = state.Outcome{}, ErrClosed
		}
		go deliver(append([]*Op(nil), ops...))
		return
	}
	s.signal()
}

func (s *Store) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close decides what was submitted, and ends.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.signal()
	<-s.stopped
	s.cancel()
}

func (s *Store) run() {
	defer close(s.stopped)
	tick := time.NewTicker(controlEvery)
	defer tick.Stop()
	for {
		ops, closed := s.take()
		if len(ops) == 0 {
			if closed {
				return
			}
			select {
			case <-s.wake:
			case <-tick.C:
				s.look()
			case <-s.engine.Changed():
				s.look()
			}
			continue
		}
		for len(ops) > 0 {
			n := min(len(ops), MaxBatch)
			s.process(ops[:n])
			ops = ops[n:]
		}
	}
}

// take gives what waits. The slice is the store's until the next call.
func (s *Store) take() (ops []*Op, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ops, s.waiting, s.resting = s.waiting, s.resting[:0], s.waiting
	return ops, s.closed
}

// look looks at the state while nobody taps.
func (s *Store) look() {
	ctx, cancel := context.WithTimeout(s.ctx, commitTimeout)
	defer cancel()
	err := s.engine.Read(ctx, &state.Batch{}) // finds out whether commits are missing
	if err == nil {
		err = s.loadRules(ctx)
	}
	s.note(err)
	s.tell(err)
}

func (s *Store) loadRules(ctx context.Context) error {
	now := s.rules.Load() // before the document, which others may replace meanwhile
	c, err := s.engine.Control(ctx)
	if err != nil {
		return err
	}
	if now != nil && now.epoch == c.Epoch {
		return nil
	} else if now != nil && c.Epoch < now.epoch {
		return fmt.Errorf("the control document is an older one: %w", state.ErrRegressed)
	}
	r, err := state.ParseRules(c.Document)
	if err != nil {
		return err
	}
	s.rules.Store(&epochRules{c.Epoch, r})
	return nil
}

// note keeps what an engine's answer says about the engine.
func (s *Store) note(err error) {
	if l := s.rules.Load().rules.Lost(); err == nil && l != nil {
		err = lossError(l)
	}
	if err == nil || errors.Is(err, state.ErrControlChanged) {
		if !s.stats.reachable.Swap(true) {
			s.o.Log.Info("the state answers again")
		}
		return
	}
	text := err.Error()
	s.stats.lastError.Store(&text)
	if s.stats.reachable.Swap(false) {
		s.o.Log.Error("the state does not answer", "error", text)
	}
	if errors.Is(err, state.ErrBroken) {
		select {
		case s.failed <- err:
		default: // known
		}
	}
}

// deliver hands operations back, neighbours with one sink at once.
func deliver(ops []*Op) {
	for i := 0; i < len(ops); {
		j := i + 1
		for j < len(ops) && ops[j].Sink == ops[i].Sink {
			j++
		}
		ops[i].Sink.Settled(ops[i:j])
		i = j
	}
}

// counterKey is the key of one period's counter.
func counterKey(base state.Key, period uint32) state.Key {
	binary.BigEndian.PutUint32(base[state.KeyBytes-4:], period)
	return base
}
