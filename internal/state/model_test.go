package state_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/internal/state"
)

// A remembered request, in the naive model.
type modelRequest struct {
	key      string
	atc      int
	decision byte
}

// naive is what replay protection has to do, written down without a window: the
// set of what was accepted. It shares nothing with the code under test.
type naive struct {
	policy   state.Policy
	status   state.Status
	accepted map[int]bool // since the last reset
	highest  int          // −1 is none
	floor    int          // 0 is none
	requests []modelRequest
}

func (m *naive) find(key string, atc int) int {
	return slices.IndexFunc(m.requests, func(r modelRequest) bool { return r.key == key && r.atc == atc })
}

// authorise predicts whether an authentic AUTHORISE is accepted, and whether as a
// repeat, and keeps it.
func (m *naive) authorise(key string, atc int) (accept, repeat bool) {
	stopped := m.status == state.Suspended || m.status == state.Deleted
	if m.find(key, atc) >= 0 {
		return !stopped, true
	}
	accept = !stopped
	switch {
	case m.floor != 0 && atc <= m.floor:
		accept = false
	case m.highest < 0 || atc > m.highest || m.policy.Mode == state.Observe:
	case m.accepted[atc] && (m.highest-atc < 64 || slices.ContainsFunc(m.requests, func(r modelRequest) bool { return r.atc == atc })):
		accept = false
	case m.policy.Mode == state.Strict:
		accept = false
	case m.highest-atc >= int(m.policy.WindowSize):
		accept = accept && m.policy.OnUnder == state.AcceptWithReason
	}
	if accept {
		m.accepted[atc] = true
		m.highest = max(m.highest, atc)
		m.status = state.Active
		m.requests = append(m.requests, modelRequest{key: key, atc: atc})
		m.requests = m.requests[max(0, len(m.requests)-int(m.policy.Remember)):]
	}
	return accept, false
}

func (m *naive) respond(key string, atc int, decision byte) bool {
	i := m.find(key, atc)
	if i < 0 || m.status == state.Suspended || m.status == state.Deleted {
		return false
	}
	if m.requests[i].decision == 0 {
		m.requests[i].decision = decision
	}
	return m.requests[i].decision == decision
}

// A history is one token's life under test.
type history struct {
	*rapid.T
	m      naive
	record state.Record
	rules  state.Rules

	issued []issued // cryptograms that the card has made
	day    uint32
	now    int64

	taken    map[int]int // ATC: accepts that were not repeats, ever
	saved    []byte      // an older state
	top      int
	restored bool
}

type issued struct {
	atc  int
	date uint32
}

// Random histories of taps, failures, advices, responses, suspensions, resets
// and restored backups, against the naive model.
func TestNextAgainstModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := state.DefaultPolicy()
		p.Mode = state.Mode(rapid.IntRange(1, 3).Draw(t, "mode"))
		p.WindowSize = uint8(rapid.SampledFrom([]int{1, 2, 31, 32, 63, 64}).Draw(t, "window"))
		p.Remember = uint8(rapid.IntRange(1, state.MaxAccepted).Draw(t, "remember"))
		p.OnUnder = rapid.SampledFrom([]state.Reaction{state.AcceptWithReason, state.Refuse, state.Refuse}).Draw(t, "under")
		p.Limits = state.Limits{}
		h := &history{
			T: t, m: naive{policy: p, accepted: map[int]bool{}, highest: -1},
			taken: map[int]int{}, day: 1, now: noon, top: -1,
		}
		h.issue(rapid.SampledFrom([]int{0, 1, 500, 65400}).Draw(t, "first"))
		t.Repeat(map[string]func(*rapid.T){
			"card":      func(t *rapid.T) { h.issue(h.issued[len(h.issued)-1].atc + rapid.IntRange(1, 40).Draw(t, "step")) },
			"authorise": func(t *rapid.T) { h.T = t; h.authorise() },
			"again":     func(t *rapid.T) { h.T = t; h.again() },
			"mismatch":  func(t *rapid.T) { h.T = t; h.mismatch() },
			"advise":    func(t *rapid.T) { h.T = t; h.advise() },
			"respond":   func(t *rapid.T) { h.T = t; h.respond() },
			"change":    func(t *rapid.T) { h.T = t; h.change() },
			"save":      func(*rapid.T) { h.saved = h.encoded() },
			"restore":   func(t *rapid.T) { h.T = t; h.restore() },
			"":          func(t *rapid.T) { h.invariants(t) },
		})
	})
}

func (h *history) issue(atc int) {
	if atc <= 0xFFFF {
		h.issued = append(h.issued, issued{atc, 0x270000 + h.day})
	}
}

// encoded is the record as an engine has it.
func (h *history) encoded() []byte {
	if h.record.Status == 0 {
		return nil
	}
	return h.record.Append(nil)
}

// event is an event of a cryptogram that the card made, mostly a recent one.
func (h *history) event() (e state.Event, key string, atc int) {
	back := rapid.IntRange(0, min(len(h.issued)-1, rapid.SampledFrom([]int{0, 3, 100}).Draw(h.T, "age"))).Draw(h.T, "back")
	c := h.issued[len(h.issued)-1-back]
	who, id := rapid.IntRange(1, 2).Draw(h.T, "caller"), rapid.IntRange(1, 2).Draw(h.T, "id")
	h.now += int64(rapid.IntRange(-2, 100).Draw(h.T, "later"))
	e = tap(uint16(c.atc), caller(uint32(who)), request(uint32(c.atc)<<4|uint32(id)))
	e.Policy, e.Now, e.Date, e.Floor = &h.m.policy, h.now, c.date, h.rules.Floor()
	return e, fmt.Sprint(c.atc, who, id), c.atc
}

// next decides, as a store does: what is not written is not there.
func (h *history) next(e *state.Event) state.Outcome {
	before := h.encoded()
	o, changed := state.Next(&h.record, e)
	if changed {
		before = h.record.Append(nil)
	}
	if err := h.record.Decode(before); err != nil {
		h.Fatalf("what was written cannot be read: %v", err)
	}
	if o.Result == state.Accept && !e.Matched {
		h.Fatalf("accepted without a match: %+v", o)
	}
	return o
}

func (h *history) authorise() {
	e, key, atc := h.event()
	h.ask(e, key, atc)
}

// again repeats the last accepted request, exactly.
func (h *history) again() {
	if len(h.m.requests) == 0 {
		return
	}
	r := h.m.requests[rapid.IntRange(0, len(h.m.requests)-1).Draw(h.T, "which")]
	var atc, who, id int
	if _, err := fmt.Sscan(r.key, &atc, &who, &id); err != nil {
		h.Fatal(err)
	}
	e := tap(uint16(atc), caller(uint32(who)), request(uint32(atc)<<4|uint32(id)))
	e.Policy, e.Now, e.Date, e.Floor = &h.m.policy, h.now, 0x270000, h.rules.Floor()
	h.ask(e, r.key, atc)
}

func (h *history) ask(e state.Event, key string, atc int) {
	remembered := h.m.find(key, atc) >= 0
	o := h.next(&e)
	if remembered && slices.Contains(o.Reasons(), state.CryptogramReplayed) {
		h.Fatalf("a remembered request is refused as a replay: %+v", o)
	}
	if o.Result == state.Accept && o.Freshness != state.Repeated {
		h.taken[atc]++
		h.top = max(h.top, atc)
	}
	if h.restored {
		h.follow(o, key, atc)
		return
	}
	accept, repeat := h.m.authorise(key, atc)
	if accept != (o.Result == state.Accept) || (accept && repeat != (o.Freshness == state.Repeated)) {
		h.Fatalf("ATC %d, %q: accept %v, repeat %v expected; got %+v, record %+v, model %+v", atc, key, accept, repeat, o, h.record, h.m)
	}
}

// follow keeps of the model, after a restored backup, what still can be known:
// the remembered requests.
func (h *history) follow(o state.Outcome, key string, atc int) {
	if o.Result == state.Accept && o.Freshness != state.Repeated {
		h.m.status = state.Active
		h.m.requests = append(h.m.requests, modelRequest{key: key, atc: atc})
		h.m.requests = h.m.requests[max(0, len(h.m.requests)-int(h.m.policy.Remember)):]
	}
	stopped := h.m.status == state.Suspended || h.m.status == state.Deleted
	if h.m.find(key, atc) >= 0 && (o.Result == state.Accept) == stopped {
		h.Fatalf("a remembered request of a token with status %d: %+v", h.m.status, o)
	}
}

// mismatch: of the token, nothing changes but what is kept about failures.
func (h *history) mismatch() {
	e, _, _ := h.event()
	e.Matched = false
	e.Purpose = state.Purpose(rapid.IntRange(1, 3).Draw(h.T, "purpose"))
	before := h.record
	before.Accepted = slices.Clone(before.Accepted)
	if o := h.next(&e); o.Result != state.Reject || o.Reasons()[0] != state.CryptogramMismatch {
		h.Fatalf("a mismatch: %+v", o)
	}
	after := h.record
	before.Failing, before.Failed, after.Failing, after.Failed = nil, nil, nil, nil
	if before.Status == 0 && after.Status == state.Noted {
		after.Status = 0
	}
	if before.Generation != after.Generation { // the floors, which are nobody's doing
		before.Generation, before.Floor = after.Generation, after.Floor
	}
	if diff := cmp.Diff(before, after, sameRecord); diff != "" {
		h.Fatalf("a mismatch changed the record: %s", diff)
	}
}

func (h *history) advise() {
	e, key, atc := h.event()
	e.Purpose, e.Type = state.Advice, state.CryptogramType(rapid.IntRange(0, 2).Draw(h.T, "type"))
	arqc := h.record.ARQC
	o := h.next(&e)
	if h.record.ARQC != arqc {
		h.Fatal("an advice consumed an ATC")
	}
	if !h.restored && h.m.highest-atc < state.WindowBits && h.m.accepted[atc] && !o.AcceptedBefore {
		h.Fatalf("%s was accepted, and the advice says no: %+v", key, o)
	}
	stopped := h.m.status == state.Suspended || h.m.status == state.Deleted
	if (o.Result == state.Accept) == stopped {
		h.Fatalf("status %d: %+v", h.m.status, o)
	}
	if h.m.status == 0 && e.Type != state.TypeARQC && h.record.Known() {
		h.m.status = state.Active
	}
}

func (h *history) respond() {
	e, key, atc := h.event()
	decision := byte(rapid.IntRange(1, 2).Draw(h.T, "decision"))
	responds(decision)(&e)
	o := h.next(&e)
	if want := h.m.respond(key, atc, decision); want != (o.Result == state.Accept) {
		h.Fatalf("respond %v expected; got %+v", want, o)
	}
}

func (h *history) change() {
	c := state.Change{Status: rapid.SampledFrom([]state.Status{state.Active, state.Active, state.Suspended}).Draw(h.T, "status")}
	if rapid.IntRange(0, 4).Draw(h.T, "reset") == 0 {
		c.Reset, c.ResetFloor = true, uint16(h.issued[len(h.issued)-1].atc)
		if c.ResetFloor == 0 {
			return // a floor of 0 is none
		}
	}
	if err := c.Apply(&h.record, h.rules.Generation); err != nil {
		h.Fatal(err)
	}
	h.m.status = c.Status
	if c.Reset {
		h.m.accepted, h.m.highest, h.m.floor, h.m.requests = map[int]bool{}, -1, int(c.ResetFloor), nil
	}
}

// restore goes back to the state that was saved. Floors are raised by as much as
// was accepted meanwhile.
func (h *history) restore() {
	if rapid.IntRange(0, 3).Draw(h.T, "really") != 0 {
		return
	}
	if err := h.record.Decode(h.saved); err != nil {
		h.Fatal(err)
	}
	raise := 0
	if h.record.ARQC.Seen != 0 {
		raise = max(0, h.top-int(h.record.ARQC.Highest))
	}
	h.rules.Restored(uint16(raise), 0x270000+h.day)
	h.day++
	h.restored = true
	h.m.status = h.record.Status
	if h.m.status == state.Noted {
		h.m.status = 0
	}
	h.m.requests = h.m.requests[:0]
	for _, a := range h.record.Accepted {
		key := fmt.Sprint(a.ATC, a.Digest[6], int(a.Digest[3]&0xF))
		h.m.requests = append(h.m.requests, modelRequest{key: key, atc: int(a.ATC), decision: a.Response[0]})
	}
}

func (h *history) invariants(t *rapid.T) {
	if h.m.policy.Mode == state.Observe || (h.m.policy.Mode == state.WindowMode && h.m.policy.OnUnder != state.Refuse) {
		return
	}
	for atc, n := range h.taken {
		if n > 1 {
			t.Fatalf("ATC %d was accepted %d times; record %+v", atc, n, h.record)
		}
	}
}
