package server

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/state/store"
	"github.com/tapseal/tapseal/internal/verdict"
)

// An engine has what all calls share: the rules, the way to the HSM, the state, the
// journal, and the bound on taps in flight.
type engine struct {
	rules   verdict.Rules
	pool    *hsm.Pool
	store   *store.Store // what is known of tokens
	journal *audit.Journal
	metrics *observability.Metrics
	log     *slog.Logger
	gate    *gate

	tapsInStream int
	patience     time.Duration // that a stream waits at the gate, and a refused caller should

	draining chan struct{} // closed: idle streams end
	closing  chan struct{} // closed: streams finish what they have taken and end

	journalFailedAt atomic.Int64 // Unix nanoseconds of the last record that was not taken
	matchedAt       atomic.Int64 // Unix nanoseconds of the last cryptogram that matched
	subjectsFit     atomic.Bool  // the workers hash tokens with the key that the state was made with

	taps    sync.Pool
	commits sync.Pool
}

func newEngine(rules verdict.Rules, pool *hsm.Pool, st *store.Store, journal *audit.Journal, m *observability.Metrics, log *slog.Logger) *engine {
	e := &engine{
		rules: rules, pool: pool, store: st, journal: journal, metrics: m, log: log,
		draining: make(chan struct{}), closing: make(chan struct{}),
	}
	e.taps.New = func() any { return newTap() }
	e.commits.New = func() any { return newCommit(e) }
	return e
}

// An audience gets taps whose decision is final: recorded, or turned into
// UNKNOWN because it could not be. answered must not block and must not keep
// the slice.
type audience interface {
	answered(taps []*tap)
}

// A commit is one group of decisions on its way into the journal.
type commit struct {
	e    *engine
	taps []*tap
	ops  []*store.Op
	recs []audit.Record
	to   audience
	done func(error) // made once, so that a commit allocates nothing
}

func newCommit(e *engine) *commit {
	c := &commit{e: e}
	c.done = c.finish
	return c
}

func (e *engine) newGroup(to audience) *commit {
	c := e.commits.Get().(*commit) //nolint:errcheck // the pool holds nothing else
	c.to = to
	return c
}

// completed takes the calls that came back from the HSM on: to the state of their
// tokens where something was compared, else into the journal.
func (e *engine) completed(calls []*hsm.Call, to audience) {
	c := e.newGroup(to)
	now := time.Now()
	e.observe(calls, now)
	fit := e.subjectsFit.Load()
	for _, call := range calls {
		t := call.Owner.(*tap) //nolint:errcheck // set by newTap
		t.stage.Store(stageState)
		if t.Recall(fit) {
			c.ops = append(c.ops, &t.Op)
		} else {
			c.taps = append(c.taps, t)
		}
	}
	e.store.Submit(c.ops...)
	clear(c.ops)
	c.ops = c.ops[:0]
	c.record(now)
}

// settled records the taps that the state of their tokens has decided.
func (e *engine) settled(ops []*store.Op, to audience) {
	c := e.newGroup(to)
	for _, op := range ops {
		t := op.Owner.(*tap) //nolint:errcheck // set by newTap
		t.Settle()
		c.taps = append(c.taps, t)
	}
	c.record(time.Now())
}

// decided records taps that needed no HSM.
func (e *engine) decided(taps []*tap, to audience) {
	c := e.newGroup(to)
	for _, t := range taps {
		t.Recall(false)
		c.taps = append(c.taps, t)
	}
	c.record(time.Now())
}

func (c *commit) record(now time.Time) {
	if len(c.taps) == 0 {
		c.reset()
		return
	}
	for _, t := range c.taps {
		t.stage.Store(stageJournal)
		c.recs = append(c.recs, t.record(now))
	}
	c.e.journal.Append(c.recs, c.done)
}

// observe tells the gate how long the HSM took. Taps that waited for a worker to
// come back are no measure of how many it can do.
func (e *engine) observe(calls []*hsm.Call, now time.Time) {
	measured := false
	for _, call := range calls {
		switch call.Answer {
		case hsm.Matched:
			e.matchedAt.Store(now.UnixNano())
		case hsm.Mismatched, hsm.DeadlineExceeded:
		default:
			continue
		}
		if !measured {
			e.gate.observe(call.Owner.(*tap).entered, now) //nolint:errcheck // set by newTap
			measured = true
		}
	}
}

// releaseAll gives the taps back to their callers' limits, neighbours of one
// caller at once.
func releaseAll(taps []*tap) {
	for i := 0; i < len(taps); {
		who, from := taps[i].who, i
		for i < len(taps) && taps[i].who == who {
			i++
		}
		who.Release(i - from)
	}
}

// finish lets the answers go, now that the journal has the decisions. Without
// a record there is no decision.
func (c *commit) finish(err error) {
	now := time.Now()
	if err != nil {
		c.e.journalFailedAt.Store(now.UnixNano())
	}
	for _, t := range c.taps {
		if err != nil {
			t.Decision = verdict.NotRecorded()
		}
		c.e.metrics.Decided(t.Resolution.Profile.ID, t.Decision, now.Sub(t.started))
	}
	c.e.gate.release(len(c.taps))
	releaseAll(c.taps)
	c.to.answered(c.taps)
	c.reset()
}

func (c *commit) reset() {
	clear(c.taps)
	clear(c.recs)
	c.taps, c.recs, c.to = c.taps[:0], c.recs[:0], nil
	c.e.commits.Put(c)
}
