package cluster

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// A Cryptogram is one of a token's, and the requests that ask about it.
type Cryptogram struct {
	Transaction
	Requests []*Request

	name string

	mu    sync.Mutex // guards what follows, and the requests
	begun int        // requests that were sent at least once
	first bool       // one was answered VALID, and not as a repeat
}

// A Request asks about a cryptogram under an id of its own, once or again. The
// caller knows of it what it was told, and nothing else.
type Request struct {
	ID string
	of *Cryptogram

	attempts int
	answers  int  // what is not UNKNOWN, or nothing
	accepted bool // answered VALID
	refused  bool // answered INVALID, or UNKNOWN to a wrong one because of the limits
}

// newCryptogram makes n requests about one transaction. name makes their ids
// different from those of others.
func newCryptogram(x Transaction, name string, n int) *Cryptogram {
	c := &Cryptogram{Transaction: x, name: name}
	for k := range n {
		c.Requests = append(c.Requests, &Request{ID: fmt.Sprintf("%s-%d", name, k), of: c})
	}
	return c
}

// settled reports whether the caller has its answer.
func (r *Request) settled() bool {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	return r.accepted || r.refused
}

// Counts are what an oracle has seen.
type Counts struct {
	Requests int64 // different ones
	Attempts int64 // times that one was sent
	Valid    int64 // answers VALID that were no repeats
	Repeated int64 // answers VALID that were
	Replayed int64 // answers INVALID because of a replay
	Wrong    int64 // wrong cryptograms that were not accepted
	Unknown  int64 // answers UNKNOWN to right cryptograms
	Lost     int64 // attempts without an answer
}

// An Oracle is the caller's own record of what it asked and was told. It says
// what of that cannot be right.
type Oracle struct {
	requests, attempts, valid, repeated, replayed, wrong, unknown, lost atomic.Int64

	mu         sync.Mutex // guards what follows
	kept       []*Cryptogram
	violations []string
	broken     int // violations in all
	last       time.Time
	gap        time.Duration
}

// NewOracle has seen nothing.
func NewOracle() *Oracle { return &Oracle{last: time.Now()} }

// Counts so far.
func (o *Oracle) Counts() Counts {
	return Counts{
		Requests: o.requests.Load(), Attempts: o.attempts.Load(), Valid: o.valid.Load(), Repeated: o.repeated.Load(),
		Replayed: o.replayed.Load(), Wrong: o.wrong.Load(), Unknown: o.unknown.Load(), Lost: o.lost.Load(),
	}
}

// Violations are what cannot be right, the first ones in words, and how many.
func (o *Oracle) Violations() (some []string, all int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.violations), o.broken
}

// Gap is the longest time without an answer, and begins to measure again. An
// UNKNOWN is no answer.
func (o *Oracle) Gap() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	gap := max(o.gap, now.Sub(o.last))
	o.gap, o.last = 0, now
	return gap
}

// violated notes what cannot be right. The words name no token.
func (o *Oracle) violated(format string, args ...any) {
	const most = 20
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken++
	if len(o.violations) < most {
		o.violations = append(o.violations, fmt.Sprintf(format, args...))
	}
}

// begin notes that a request is about to be sent.
func (o *Oracle) begin(r *Request) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.attempts == 0 {
		r.of.begun++
		o.requests.Add(1)
	}
	r.attempts++
	o.attempts.Add(1)
}

// unanswered notes an attempt that got an error in place of an answer.
func (o *Oracle) unanswered(r *Request, code codes.Code) {
	o.lost.Add(1)
	switch code {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled, codes.OK:
	default:
		o.violated("request %s on a cryptogram that is well formed got the error %s", r.ID, code)
	}
}

// answered notes an answer.
func (o *Oracle) answered(r *Request, v *tapsealv1.Verification) {
	c := r.of
	c.mu.Lock()
	defer c.mu.Unlock()
	switch v.GetVerdict() {
	case tapsealv1.Verdict_VERDICT_VALID:
		o.accepted(r, v.GetRepeated())
	case tapsealv1.Verdict_VERDICT_INVALID:
		o.refused(r, v.GetReasons())
	case tapsealv1.Verdict_VERDICT_UNKNOWN:
		if c.Wrong && slices.Contains(v.GetReasons(), tapsealv1.Reason_REASON_ATTEMPTS_LIMITED) {
			r.refused = true
			o.wrong.Add(1)
			break
		}
		o.unknown.Add(1)
		if v.GetRetry() == tapsealv1.RetryClass_RETRY_CLASS_UNSPECIFIED {
			o.violated("request %s: UNKNOWN without a retry class", r.ID)
		}
		return
	default:
		o.violated("request %s: no verdict in the answer", r.ID)
		return
	}
	r.answers++
	o.noteTime()
}

func (o *Oracle) noteTime() {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	o.gap, o.last = max(o.gap, now.Sub(o.last)), now
}

// accepted: at most one request of a cryptogram ever is, and only its first
// acceptance is no repeat.
func (o *Oracle) accepted(r *Request, repeated bool) {
	c := r.of
	if repeated {
		o.repeated.Add(1)
	} else {
		o.valid.Add(1)
	}
	switch {
	case c.Wrong:
		o.violated("request %s: a wrong cryptogram is VALID", r.ID)
	case slices.ContainsFunc(c.Requests, func(other *Request) bool { return other != r && other.accepted }):
		o.violated("request %s: double accept, another request of this cryptogram is VALID", r.ID)
	case r.refused:
		o.violated("request %s: VALID after it was refused", r.ID)
	case !repeated && c.first:
		o.violated("request %s: VALID twice, without saying that it repeats", r.ID)
	case repeated && r.attempts == 1:
		o.violated("request %s: a repeat at the first attempt", r.ID)
	}
	r.accepted = true
	c.first = c.first || !repeated
}

func (o *Oracle) refused(r *Request, reasons []tapsealv1.Reason) {
	c := r.of
	switch {
	case c.Wrong && slices.Contains(reasons, tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH):
		o.wrong.Add(1)
	case c.Wrong || !slices.Contains(reasons, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED):
		o.violated("request %s: refused with %v, wrong cryptogram %t", r.ID, reasons, c.Wrong)
	case r.accepted:
		o.violated("request %s: refused as a replay after it was accepted: its acceptance is lost", r.ID)
	case c.begun == 1:
		o.violated("request %s: refused as a replay, and no other request had this cryptogram", r.ID)
	default:
		o.replayed.Add(1)
	}
	r.refused = true
}

// keep remembers cryptograms for Recheck.
func (o *Oracle) keep(all []*Cryptogram) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = append(o.kept, all...)
}

// conclude checks that every request has its answer, and that exactly one of
// each right cryptogram was accepted.
func (o *Oracle) conclude(all []*Cryptogram) {
	for _, c := range all {
		c.mu.Lock()
		accepted, open := 0, 0
		for _, r := range c.Requests {
			if r.accepted {
				accepted++
			}
			if !r.accepted && !r.refused {
				open++
			}
		}
		switch {
		case open > 0:
			o.violated("cryptogram %s: %d requests without an answer after %v of retries", c.name, open, patience)
		case !c.Wrong && accepted != 1:
			o.violated("cryptogram %s: %d of %d requests accepted", c.name, accepted, len(c.Requests))
		}
		c.mu.Unlock()
	}
}
