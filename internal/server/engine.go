package server

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/verdict"
)

// An engine has what all calls share: the rules, the way to the HSM, the
// journal, and the bound on taps in flight.
type engine struct {
	rules   verdict.Rules
	pool    *hsm.Pool
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

	taps    sync.Pool
	commits sync.Pool
}

func newEngine(rules verdict.Rules, pool *hsm.Pool, journal *audit.Journal, m *observability.Metrics, log *slog.Logger) *engine {
	e := &engine{
		rules: rules, pool: pool, journal: journal, metrics: m, log: log,
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
	recs []audit.Record
	to   audience
	done func(error) // made once, so that a commit allocates nothing
}

func newCommit(e *engine) *commit {
	c := &commit{e: e}
	c.done = c.finish
	return c
}

// completed settles the calls that came back from the pool and records them.
func (e *engine) completed(calls []*hsm.Call, to audience) {
	c := e.commits.Get().(*commit) //nolint:errcheck // the pool holds nothing else
	for _, call := range calls {
		c.taps = append(c.taps, call.Owner.(*tap)) //nolint:errcheck // set by newTap
	}
	c.record(to)
}

// decided records taps that needed no HSM.
func (e *engine) decided(taps []*tap, to audience) {
	if len(taps) == 0 {
		return
	}
	c := e.commits.Get().(*commit) //nolint:errcheck // the pool holds nothing else
	c.taps = append(c.taps, taps...)
	c.record(to)
}

func (c *commit) record(to audience) {
	now := time.Now()
	c.to = to
	matched := false
	c.observe(now)
	for _, t := range c.taps {
		t.Settle()
		matched = matched || t.Decision.Verdict == verdict.Valid
		t.recording.Store(true)
		c.recs = append(c.recs, t.record(now))
	}
	if matched {
		c.e.matchedAt.Store(now.UnixNano())
	}
	c.e.journal.Append(c.recs, c.done)
}

// observe tells the gate how long the HSM took. Taps that waited for a worker to
// come back are no measure of how many it can do.
func (c *commit) observe(now time.Time) {
	for _, t := range c.taps {
		switch {
		case !t.NeedsHSM:
		case t.Call.Answer == hsm.Matched, t.Call.Answer == hsm.Mismatched, t.Call.Answer == hsm.DeadlineExceeded:
			c.e.gate.observe(t.entered, now)
			return
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
	clear(c.taps)
	clear(c.recs)
	c.taps, c.recs, c.to = c.taps[:0], c.recs[:0], nil
	c.e.commits.Put(c)
}
