package hsm

import (
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// Answer is what became of a call. The zero value means nothing happened yet.
type Answer uint8

// Answers. Only Matched and Mismatched say something about the cryptogram.
const (
	Matched          Answer = 1  // authentic; ARPC set if the request asked for one
	Mismatched       Answer = 2  // compared, and wrong
	KeyUnknown       Answer = 3  // no worker serves this key
	KeyUnproven      Answer = 4  // the token does not hold the key that the manifest describes
	KeyInactive      Answer = 5  // the key's state does not allow verification
	NotBound         Answer = 6  // the key may not serve this profile
	Malformed        Answer = 7  // the request makes no plan
	GuessLimit       Answer = 8  // too many mismatches for this key and subject, of this caller or in all
	DeadlineExceeded Answer = 9  // nobody answered in time
	NoWorker         Answer = 10 // no worker was reachable, or two died under this call
	TokenFailure     Answer = 11 // the token answered with an error, on two workers if there are two
	Overloaded       Answer = 12 // the pool's bound on calls in flight was reached

	numAnswers = 13
)

// answerNames are also the values of the metrics label.
var answerNames = [numAnswers]string{
	"none", "matched", "mismatched", "key_unknown", "key_unproven", "key_inactive", "not_bound", "malformed",
	"guess_limit", "deadline_exceeded", "no_worker", "token_failure", "overloaded",
}

// String is the answer in snake case.
func (a Answer) String() string {
	if a < numAnswers {
		return answerNames[a]
	}
	return "invalid"
}

// A Subject is the hash of a PAN and sequence number under one version of the
// subject key.
type Subject = keys.Subject

// A Call is one verification on its way through the pool. The owner fills in
// the first block, submits it, and must not touch it until it comes back
// through Sink, exactly once. Calls may be reused after that.
type Call struct {
	Key      keys.ID
	Caller   uint32 // hash of the caller's name, 0 is not said; the worker limits guesses for each
	Request  cryptogram.Request
	Deadline time.Time // required
	Sink     Sink      // required
	Owner    any       // what the call belongs to, for the Sink; the pool does not look at it

	Answer    Answer
	ARPC      [8]byte
	ARPCBytes uint8 // 0, 4 or 8; only with Matched

	// Subjects are PAN and sequence number hashed under the current subject
	// key and, during a rotation, the previous one. Only with Matched and
	// Mismatched, and only from a worker whose manifest has such a key;
	// version 0 is none.
	Subjects [2]Subject

	state callState // the pool's own
}

// callState is the pool's bookkeeping inside a Call.
type callState struct {
	deadline int64 // CLOCK_MONOTONIC nanoseconds
	attempts uint8 // workers that may have seen the call
}

// Attempts is the number of workers that may have seen the finished call.
func (c *Call) Attempts() uint8 { return c.state.attempts }

// A Sink takes finished calls. Completed is called from the pool's goroutines
// with one or more calls at a time: it must not block and must not keep the
// slice. It may submit calls. Sinks are compared with == to group the calls of
// one, so a Sink is a pointer or another comparable type.
type Sink interface {
	Completed(calls []*Call)
}

// answerTo translates a worker's status. Statuses are checked in decoding; one
// that is not listed says nothing about the cryptogram.
func answerTo(s frame.Status) Answer {
	switch s {
	case frame.StatusMatched:
		return Matched
	case frame.StatusMismatched:
		return Mismatched
	case frame.StatusKeyUnknown:
		return KeyUnknown
	case frame.StatusKeyUnproven:
		return KeyUnproven
	case frame.StatusKeyInactive:
		return KeyInactive
	case frame.StatusNotBound:
		return NotBound
	case frame.StatusMalformed:
		return Malformed
	case frame.StatusGuessLimit:
		return GuessLimit
	case frame.StatusExpired:
		return DeadlineExceeded
	}
	return TokenFailure
}

// arpcFits reports whether the reply has an ARPC exactly if the request asked
// for one and matched, of the length of the method asked for. A reply that
// does not fit belongs to another request.
func arpcFits(r *frame.Reply, want cryptogram.ResponseKind) bool {
	if r.Status != frame.StatusMatched {
		return r.ARPCBytes == 0
	}
	switch want {
	case cryptogram.NoResponse:
		return r.ARPCBytes == 0
	case cryptogram.ResponseCode:
		return r.ARPCBytes == 8
	case cryptogram.CardStatusUpdate:
		return r.ARPCBytes == 4
	}
	return false
}
