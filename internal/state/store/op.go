// Package store takes events to the records they are about: it groups them,
// reads, lets state.Next decide, and commits, so that one durable write serves
// many requests. Where another daemon was faster, it reads and decides again.
package store

import (
	"errors"
	"time"

	"github.com/tapseal/tapseal/internal/state"
)

// A Subject is a token under one version of the subject key.
type Subject struct {
	Version uint32 // 0: none
	Key     state.Key
}

// An Op is one event on its way. The owner fills in the first block, submits it
// and must not touch it until it comes back through Sink, exactly once. It holds
// the leading digits of a PAN: never log one.
type Op struct {
	// Subjects are the token under the current and, while that key rotates, the
	// previous subject key.
	Subjects  [2]Subject
	Device    state.Key // of the device that the caller named; zero is none
	Event     state.Event
	PAN       uint64 // digits filled up to 19, for stops of BIN ranges
	KeySet    string
	Version   uint32
	CallerKey state.Key // names the caller's failures, and
	BINKey    state.Key // the caller's with this BIN; the last four bytes are the store's
	Deadline  time.Time
	Sink      Sink
	Owner     any

	// Outcome is what the state says. Without a result nothing is known, and Err
	// says why.
	Outcome  state.Outcome
	Err      error
	Sequence uint64 // of the commit that the outcome rests on; 0 if it wrote nothing

	attempts uint8
	token    int // index of the record in the batch
	counters [2]int
}

// A Sink takes finished operations. Settled is called from the store's goroutine
// with one or more: it must not block and must not keep the slice.
type Sink interface {
	Settled(ops []*Op)
}

// Errors of an Op, and of the store's other methods, beside those of an engine.
var (
	ErrDeadline = errors.New("the deadline passed before the state was asked")
	ErrBusy     = errors.New("other requests for the same token were faster, again and again")
	ErrClosed   = errors.New("the state is closed")
	ErrDamaged  = errors.New("the record of this token is damaged or of a newer version")
	ErrEvent    = errors.New("the event has no policy, or no purpose")
	ErrSubject  = errors.New("the record of this token is under a newer subject key, or the token holds none")
)
