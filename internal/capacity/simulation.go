package capacity

import (
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// A Simulation is what traffic does to records, by the real transition.
type Simulation struct {
	Requests, Writes, Accepts, Replays, Repeats, Mismatches int
	RecordBytes                                             float64 // mean, of the records of all tokens
	LargestRecord                                           int
}

// Random gives numbers below one.
type Random interface{ Float64() float64 }

// simulated is one token, and what its cardholder has done.
type simulated struct {
	record []byte
	atc    uint16
	last   state.Event // accepted
	open   bool        // it has no response yet
}

// Simulate lets tokens tap for a number of requests each, on average. It is an
// error if the transition ever accepts what it must not.
func (t Traffic) Simulate(tokens, requestsEach int, rnd Random) (*Simulation, error) {
	policy := state.DefaultPolicy()
	all := make([]simulated, tokens)
	s := &Simulation{}
	var record state.Record
	for n := range tokens * requestsEach {
		token := &all[int(rnd.Float64()*float64(tokens))]
		e, kind := t.next(token, uint64(n), rnd) //nolint:gosec // not negative
		e.Policy, e.Now = &policy, int64(n)
		if err := record.Decode(token.record); err != nil {
			return nil, err
		}
		o, changed := state.Next(&record, &e)
		if o.Result == state.Accept && kind != fresh && o.Freshness != state.Repeated && kind != respond {
			return nil, fmt.Errorf("request %d was accepted, and is %s", n, kind)
		}
		s.Requests++
		s.count(&o, kind)
		if changed {
			s.Writes++
			token.record = record.Append(token.record[:0])
			s.LargestRecord = max(s.LargestRecord, len(token.record))
		}
		if kind == fresh && o.Result == state.Accept {
			token.last, token.open = e, true
		}
	}
	sum := 0
	for i := range all {
		sum += len(all[i].record)
	}
	s.RecordBytes = float64(sum) / float64(tokens)
	return s, nil
}

type kind string

const (
	fresh   kind = "a new tap"
	respond kind = "a response"
	retry   kind = "a repeat"
	replay  kind = "a replay"
	wrong   kind = "a wrong cryptogram"
)

// next is one request of a token's traffic. A token's first one is a new tap.
func (t Traffic) next(token *simulated, n uint64, rnd Random) (state.Event, kind) {
	roll := rnd.Float64()
	if token.last.ATC == 0 {
		roll = 1
	}
	again := token.last
	switch {
	case roll < t.Responds && token.open:
		token.open = false
		again.Purpose, again.Response = state.Respond, [state.ResponseBytes]byte{1}
		return again, respond
	case roll < t.Responds:
	case roll < t.Responds+t.Retries:
		return again, retry
	case roll < t.Responds+t.Retries+t.Replays:
		again.Requests[0] = digest(n)
		return again, replay
	}
	token.atc++
	e := state.Event{Purpose: state.Authorise, Matched: true, Caller: 1, ATC: token.atc}
	e.Requests[0] = digest(n)
	binary.BigEndian.PutUint32(e.UN[:], uint32(n)) //nolint:gosec // any number does
	if roll >= t.Responds && roll < t.Responds+t.Retries+t.Replays+t.Wrong {
		e.Matched = false
		return e, wrong
	}
	return e, fresh
}

func digest(n uint64) (d state.Digest) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n+1)
	copy(d[:], b[1:])
	return d
}

func (s *Simulation) count(o *state.Outcome, k kind) {
	switch {
	case o.Freshness == state.Repeated && o.Result == state.Accept:
		s.Repeats++
	case o.Result == state.Accept && k == fresh:
		s.Accepts++
	case k == replay && o.Result == state.Reject:
		s.Replays++
	case k == wrong && o.Result == state.Reject:
		s.Mismatches++
	}
}
