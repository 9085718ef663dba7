package server

import (
	"sync/atomic"
	"time"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/verdict"
)

// A tap is one submitted transaction on its way through the daemon. Taps are
// reused: they come from engine.get and go back through engine.put once
// nothing refers to them.
type tap struct {
	verdict.Case
	requestID string
	caller    string
	who       *authz.Principal // owed a Release
	method    audit.Method
	started   time.Time
	entered   time.Time // given to the pool
	refused   error     // malformed, or a *refusal: the text is safe to show

	// Unary calls wait here; a stream keeps late under its own lock.
	answer chan struct{} // capacity 1
	timer  *time.Timer   // bounds the wait for the journal
	stage  atomic.Int32  // stageHSM and what follows
	state  atomic.Int32  // tapWaiting and what follows
	late   bool          // a stream has answered UNKNOWN in its place
}

// Stages of a tap: what it waits for.
const (
	stageHSM     int32 = 0
	stageState   int32 = 1 // the HSM's answer is there, and stays as it is until the tap is reused
	stageJournal int32 = 2
)

// States of a unary call's tap: exactly one side moves it from waiting.
const (
	tapWaiting   int32 = 0
	tapAnswered  int32 = 1
	tapAbandoned int32 = 2 // the caller got UNKNOWN: whoever finishes the tap throws it away
)

func newTap() *tap {
	t := &tap{answer: make(chan struct{}, 1)}
	t.Call.Owner, t.Op.Owner = t, t
	return t
}

func (e *engine) get() *tap {
	return e.taps.Get().(*tap) //nolint:errcheck // the pool holds nothing else
}

// put wipes the cardholder data and keeps the memory.
func (e *engine) put(t *tap) {
	t.Wipe()
	t.Call.Sink = nil
	t.Op.Owner = t
	t.requestID, t.caller, t.who, t.refused, t.late = "", "", nil, nil, false
	t.stage.Store(stageHSM)
	t.state.Store(tapWaiting)
	e.taps.Put(t)
}

// record is what the journal keeps of the decision.
func (t *tap) record(now time.Time) audit.Record {
	r := audit.Record{
		Time:       now,
		Caller:     t.caller,
		RequestID:  t.requestID,
		Method:     t.method,
		Purpose:    uint8(t.Purpose), //nolint:gosec // checked to be 1 or 2
		Assignment: t.Resolution.Assignment,
		Profile:    uint16(t.Resolution.Profile.ID),
		KeySet:     t.Resolution.KeySet,
		KeyVersion: t.Resolution.KeyVersion,
		Verdict:    uint8(t.Decision.Verdict),
	}
	d := &t.Decision
	r.Reasons[0] = uint8(d.Reason)
	for i, more := range d.More {
		r.Reasons[i+1] = uint8(more)
	}
	r.Freshness = uint8(d.Freshness)
	if t.NeedsHSM {
		r.Attempts = t.Call.Attempts()
		copy(r.Token[:], t.Op.Subjects[0].Key[:])
		r.StateSequence = t.Op.Sequence
	}
	return r
}
