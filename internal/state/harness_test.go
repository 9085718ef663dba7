package state_test

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

const noon = 1_800_000_000 // Unix seconds; a multiple of 60

// An option changes an event.
type option func(*state.Event)

// tap is an authentic AUTHORISE of the ATC, under the default policy. Its
// request and unpredictable number are of the ATC alone.
func tap(atc uint16, options ...option) state.Event {
	p := state.DefaultPolicy()
	e := state.Event{
		Now: noon, Policy: &p, Purpose: state.Authorise, Matched: true, Caller: 1,
		ATC: atc, Date: 0x270115, Amount: 1000, Currency: 0x0978,
	}
	request(uint32(atc) + 1)(&e)
	binary.BigEndian.PutUint32(e.UN[:], uint32(atc)+0x1000000)
	for _, o := range options {
		o(&e)
	}
	return e
}

func request(n uint32) option {
	return func(e *state.Event) {
		e.Requests = [2]state.Digest{{}, {}}
		binary.BigEndian.PutUint32(e.Requests[0][:], n)
		e.Requests[0][6] = byte(e.Caller)
	}
}

func caller(n uint32) option { return func(e *state.Event) { e.Caller = n } }

func mismatched(e *state.Event) { e.Matched = false }

// respondable marks what a response can be made for; it is every tap.
func respondable(*state.Event) {}

func responds(decision byte) option {
	return func(e *state.Event) {
		e.Purpose, e.Response = state.Respond, [state.ResponseBytes]byte{decision}
	}
}

func purpose(p state.Purpose) option { return func(e *state.Event) { e.Purpose = p } }

func ofType(t state.CryptogramType) option {
	return func(e *state.Event) { e.Purpose, e.Type = state.Advice, t }
}

func policy(change func(p *state.Policy)) option {
	return func(e *state.Event) {
		p := *e.Policy
		change(&p)
		e.Policy = &p
	}
}

func at(sec int64) option { return func(e *state.Event) { e.Now = noon + sec } }

func floor(f state.Floor) option { return func(e *state.Event) { e.Floor = f } }

func stops(s state.Stop) option { return func(e *state.Event) { e.Stops = s } }

// decide gives the event to the record, by way of its encoding, as a store does.
func decide(t *testing.T, r *state.Record, e state.Event) state.Outcome {
	t.Helper()
	before := r.Append(nil)
	o, changed := state.Next(r, &e)
	if changed {
		if err := r.Decode(r.Append(nil)); err != nil {
			t.Fatalf("what Next wrote cannot be read: %v", err)
		}
		return o
	}
	if r.Status == 0 {
		before = nil
	}
	if err := r.Decode(before); err != nil {
		t.Fatal(err)
	}
	return o
}

// accepted gives a record that has accepted these ATCs, in order.
func accepted(t *testing.T, atcs ...uint16) *state.Record {
	t.Helper()
	r := &state.Record{}
	for _, atc := range atcs {
		if o := decide(t, r, tap(atc)); o.Result != state.Accept {
			t.Fatalf("ATC %d: %+v", atc, o)
		}
	}
	return r
}

// A want is what an outcome should say.
type want struct {
	result    state.Result
	freshness state.Freshness
	before    bool
	reasons   []state.Reason
}

func (w want) check(t *testing.T, o state.Outcome) {
	t.Helper()
	if o.Result != w.result || o.Freshness != w.freshness || o.AcceptedBefore != w.before || !slices.Equal(o.Reasons(), w.reasons) {
		t.Errorf("got result %d, freshness %d, before %v, reasons %v; want %d, %d, %v, %v",
			o.Result, o.Freshness, o.AcceptedBefore, o.Reasons(), w.result, w.freshness, w.before, w.reasons)
	}
}

func reasons(r ...state.Reason) []state.Reason { return r }
