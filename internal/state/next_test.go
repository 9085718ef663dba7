package state_test

import (
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

func mode(m state.Mode) option { return policy(func(p *state.Policy) { p.Mode = m }) }

func onUnder(r state.Reaction) option { return policy(func(p *state.Policy) { p.OnUnder = r }) }

// Each row is one tap of a token that has accepted ATCs 1000 and 1010 under the
// window policy: window 32, jumps over 1000 noted.
func TestWindow(t *testing.T) {
	t.Parallel()
	accept := func(f state.Freshness, r ...state.Reason) want { return want{state.Accept, f, false, r} }
	reject := func(f state.Freshness, r ...state.Reason) want { return want{state.Reject, f, false, r} }
	replayed := want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}
	other := request(99)
	noJump := policy(func(p *state.Policy) { p.OnJump = state.Refuse })
	anyJump := policy(func(p *state.Policy) { p.MaxJump = 0 })
	for name, c := range map[string]struct {
		e    state.Event
		want want
	}{
		"next":                             {tap(1011), accept(state.Fresh)},
		"a jump as far as allowed":         {tap(2010), accept(state.Fresh)},
		"a jump":                           {tap(2011), accept(state.Fresh, state.ATCJump)},
		"a jump, refused":                  {tap(2011, noJump), reject(state.Fresh, state.ATCJump)},
		"a jump, strict":                   {tap(2011, mode(state.Strict), noJump), reject(state.Fresh, state.ATCJump)},
		"a jump, observed":                 {tap(2011, mode(state.Observe), noJump), accept(state.Fresh, state.ATCJump)},
		"a jump, no reaction":              {tap(2011, policy(func(p *state.Policy) { p.OnJump = 0 })), reject(state.Fresh, state.ATCJump)},
		"a jump to the end, any":           {tap(65535, anyJump), accept(state.Fresh)},
		"a jump to the end":                {tap(65535), accept(state.Fresh, state.ATCJump)},
		"the highest again":                {tap(1010, other), replayed},
		"the highest again, strict":        {tap(1010, other, mode(state.Strict)), replayed},
		"an older one again":               {tap(1000, other), replayed},
		"an older one again, strict":       {tap(1000, other, mode(state.Strict)), replayed},
		"an older one again, window 1":     {tap(1000, other, policy(func(p *state.Policy) { p.WindowSize, p.OnUnder = 1, state.AcceptWithReason })), replayed},
		"again, observed":                  {tap(1010, other, mode(state.Observe)), want{state.Accept, state.Replayed, true, reasons(state.CryptogramReplayed)}},
		"late":                             {tap(1005), accept(state.Late)},
		"late, strict":                     {tap(1005, mode(state.Strict)), reject(state.Late, state.ATCLate)},
		"late, observed":                   {tap(1005, mode(state.Observe)), accept(state.Late, state.ATCLate)},
		"the last of the window":           {tap(1010 - 31), accept(state.Late)},
		"under the window":                 {tap(1010 - 32), reject(state.Late, state.ATCUnderWindow)},
		"under the window, noted":          {tap(1010-32, onUnder(state.AcceptWithReason)), accept(state.Late, state.ATCUnderWindow)},
		"under the window, no reaction":    {tap(1010-32, onUnder(0)), reject(state.Late, state.ATCUnderWindow)},
		"under the window, observed":       {tap(1010-32, mode(state.Observe)), accept(state.Late, state.ATCUnderWindow)},
		"under the window, strict":         {tap(1010-32, mode(state.Strict), onUnder(state.AcceptWithReason)), reject(state.Late, state.ATCUnderWindow)},
		"the last bit":                     {tap(1010 - 63), reject(state.Late, state.ATCUnderWindow)},
		"under all bits":                   {tap(1010 - 64), reject(state.CannotTell, state.ATCUnderWindow)},
		"under all bits, noted":            {tap(1010-64, onUnder(state.AcceptWithReason)), accept(state.CannotTell, state.ATCUnderWindow)},
		"under all bits, observed":         {tap(1010-64, mode(state.Observe)), accept(state.CannotTell, state.ATCUnderWindow)},
		"under all bits, strict":           {tap(0, mode(state.Strict), onUnder(state.AcceptWithReason)), reject(state.CannotTell, state.ATCUnderWindow)},
		"zero":                             {tap(0), reject(state.CannotTell, state.ATCUnderWindow)},
		"window of 64":                     {tap(1010-63, policy(func(p *state.Policy) { p.WindowSize = 64 })), accept(state.Late)},
		"window of 64, under":              {tap(1010-64, policy(func(p *state.Policy) { p.WindowSize = 64 })), reject(state.CannotTell, state.ATCUnderWindow)},
		"a request of another caller":      {tap(1010, caller(2), request(1011)), replayed},
		"a repeat":                         {tap(1010), want{state.Accept, state.Repeated, true, nil}},
		"a repeat, strict":                 {tap(1000, mode(state.Strict)), want{state.Accept, state.Repeated, true, nil}},
		"a repeat, observed":               {tap(1000, mode(state.Observe)), want{state.Accept, state.Repeated, true, nil}},
		"a repeat under the old key":       {tap(1010, func(e *state.Event) { e.Requests[0], e.Requests[1] = state.Digest{9}, e.Requests[0] }), want{state.Accept, state.Repeated, true, nil}},
		"a repeat's digest at another ATC": {tap(1011, request(1011)), accept(state.Fresh)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.want.check(t, decide(t, accepted(t, 1000, 1010), c.e))
		})
	}
}

// The highest ATC there is: differences of 16 bits do not wrap.
func TestWindowEnds(t *testing.T) {
	t.Parallel()
	r := accepted(t, 65000, 65535)
	want{state.Reject, state.CannotTell, false, reasons(state.ATCUnderWindow)}.check(t, decide(t, r, tap(0)))
	want{state.Accept, state.Late, false, nil}.check(t, decide(t, r, tap(65534)))
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t, decide(t, r, tap(65535, request(5))))
	r = accepted(t, 0)
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t, decide(t, r, tap(0, request(5))))
	want{state.Accept, state.Fresh, false, reasons(state.ATCJump)}.check(t, decide(t, r, tap(65535)))
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t, decide(t, r, tap(65535, request(5))))
	if r.ARQC.Accepted() != 1 {
		t.Errorf("a jump over the whole window leaves %d bits", r.ARQC.Accepted())
	}
}

// An ATC under the window has no bit. As long as its request is remembered,
// everybody can tell all the same.
func TestUnderWindowRemembered(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1000)
	under := tap(10, onUnder(state.AcceptWithReason))
	want{state.Accept, state.CannotTell, false, reasons(state.ATCUnderWindow)}.check(t, decide(t, r, under))
	want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, under))
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t,
		decide(t, r, tap(10, request(77), onUnder(state.AcceptWithReason))))
	want{state.Accept, state.Replayed, true, nil}.check(t, decide(t, r, tap(10, request(77), purpose(state.Advice))))
}

func TestUnpredictableNumberReused(t *testing.T) {
	t.Parallel()
	same := func(e *state.Event) { e.UN = tap(1000).UN }
	refuse := policy(func(p *state.Policy) { p.OnUNReuse = state.Refuse })
	want{state.Accept, state.Fresh, false, reasons(state.UNReused)}.check(t, decide(t, accepted(t, 1000), tap(1001, same)))
	want{state.Reject, state.Fresh, false, reasons(state.UNReused)}.check(t, decide(t, accepted(t, 1000), tap(1001, same, refuse)))
	want{state.Reject, state.Fresh, false, reasons(state.UNReused)}.check(t,
		decide(t, accepted(t, 1000), tap(1001, same, policy(func(p *state.Policy) { p.OnUNReuse = 0 }))))
	want{state.Reject, state.Fresh, false, reasons(state.ATCJump, state.UNReused)}.check(t,
		decide(t, accepted(t, 1000), tap(5000, same, refuse)))
	// The same ATC with the same number is a replay, and no reuse beside.
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t,
		decide(t, accepted(t, 1000), tap(1000, request(5), refuse)))
	// It is asked of the remembered ones only.
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, accepted(t, 1000, 1001, 1002, 1003), tap(1004, same, refuse)))
}

func TestRemembers(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1, 2, 3, 4)
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t, decide(t, r, tap(1)))
	for atc := uint16(2); atc <= 4; atc++ {
		want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(atc)))
	}
	// A policy that remembers fewer forgets the oldest; nonsense is bounded.
	decide(t, r, tap(5, policy(func(p *state.Policy) { p.Remember = 0 })))
	if len(r.Accepted) != 1 || r.Accepted[0].ATC != 5 {
		t.Errorf("remembered: %+v", r.Accepted)
	}
	for atc := uint16(6); atc < 40; atc++ {
		decide(t, r, tap(atc, policy(func(p *state.Policy) { p.Remember = 255 })))
	}
	if len(r.Accepted) != state.MaxAccepted || r.Accepted[0].ATC != 25 {
		t.Errorf("remembered: %+v", r.Accepted)
	}
}

// A request without a digest is nobody's repeat.
func TestNoDigest(t *testing.T) {
	t.Parallel()
	none := func(e *state.Event) { e.Requests = [2]state.Digest{} }
	r := &state.Record{}
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1, none)))
	want{state.Reject, state.Replayed, true, reasons(state.CryptogramReplayed)}.check(t, decide(t, r, tap(1, none)))
}

// Zero values of what decides never accept, whatever the record says and whether
// or not the request is remembered.
func TestZeroValues(t *testing.T) {
	t.Parallel()
	zeroPolicy := func(e *state.Event) { e.Policy = &state.Policy{} }
	noPolicy := func(e *state.Event) { e.Policy = nil }
	for _, atc := range []uint16{1000, 1001} {
		for name, e := range map[string]state.Event{
			"policy": tap(atc, zeroPolicy), "no policy": tap(atc, noPolicy),
			"mode": tap(atc, mode(0)), "mode 4": tap(atc, mode(4)),
			"purpose": tap(atc, purpose(0)), "purpose 4": tap(atc, purpose(4)),
			"event": {}, "event with a policy": {Policy: tap(1).Policy}, "matched": {Policy: tap(1).Policy, Matched: true},
		} {
			for _, r := range []*state.Record{{}, accepted(t, 1000)} {
				if o, changed := state.Next(r, &e); o != (state.Outcome{}) || changed {
					t.Errorf("%s: %+v, %v", name, o, changed)
				}
			}
		}
	}
	var o state.Outcome
	if o.Result == state.Accept || o.Freshness != state.FreshnessUnset || len(o.Reasons()) != 0 {
		t.Errorf("the zero outcome: %+v", o)
	}
	if o := decide(t, &state.Record{}, tap(1, policy(func(p *state.Policy) { p.OnUnknown = 0 }))); o.Result != state.Reject {
		t.Errorf("an unknown token without a reaction: %+v", o)
	}
	if o, changed := state.Next(state.Tombstone(), &state.Event{Policy: tap(1).Policy, Purpose: state.Authorise, Matched: true}); o != (state.Outcome{}) || changed {
		t.Errorf("a record that has moved: %+v", o)
	}
}

func change(t *testing.T, r *state.Record, c state.Change) {
	t.Helper()
	if err := c.Apply(r, r.Generation); err != nil {
		t.Fatal(err)
	}
}

// What has happened to the token wins over everything, repeats as well.
func TestTokenState(t *testing.T) {
	t.Parallel()
	onlyKnown := policy(func(p *state.Policy) { p.OnUnknown = state.Refuse })
	suspend, del := state.Change{Status: state.Suspended}, state.Change{Status: state.Deleted}
	for name, c := range map[string]struct {
		change  state.Change
		options []option
		reasons []state.Reason
	}{
		"suspended":   {suspend, nil, reasons(state.TokenSuspended)},
		"deleted":     {del, nil, reasons(state.TokenDeleted)},
		"device":      {state.Change{}, []option{stops(state.StopDevice)}, reasons(state.DeviceStopped)},
		"BIN":         {state.Change{}, []option{stops(state.StopBIN)}, reasons(state.BINStopped)},
		"key":         {state.Change{}, []option{stops(state.StopKey)}, reasons(state.KeyStopped)},
		"all of them": {suspend, []option{stops(7)}, reasons(state.TokenSuspended, state.DeviceStopped, state.BINStopped, state.KeyStopped)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, m := range []state.Mode{state.Strict, state.WindowMode, state.Observe} {
				r := accepted(t, 1000)
				change(t, r, c.change)
				with := append([]option{mode(m)}, c.options...)
				want{state.Reject, state.Fresh, false, c.reasons}.check(t, decide(t, r, tap(1001, with...)))
				want{state.Reject, state.Repeated, true, c.reasons}.check(t, decide(t, r, tap(1000, with...)))
				want{state.Reject, state.Fresh, true, c.reasons}.check(t, decide(t, r, tap(1000, append(with, responds(1))...)))
				want{state.Reject, state.NotChecked, false, append(reasons(state.CryptogramMismatch), c.reasons...)}.check(t,
					decide(t, r, tap(1001, append(with, mismatched)...)))
				want{state.Reject, state.Replayed, true, c.reasons}.check(t, decide(t, r, tap(1000, append(with, purpose(state.Advice))...)))
				want{state.Reject, state.Fresh, false, c.reasons}.check(t, decide(t, r, tap(1002, append(with, ofType(state.TypeTC))...)))
				if r.TC.Seen != 0 {
					t.Error("a refused advice was remembered")
				}
				// And back, where there is a way back: nothing was consumed.
				if c.change.Status == state.Suspended {
					change(t, r, state.Change{Status: state.Active})
					if len(c.options) == 0 {
						want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1001, with...)))
					}
				}
			}
		})
	}
	want{state.Reject, state.Fresh, false, reasons(state.TokenUnknown)}.check(t, decide(t, &state.Record{}, tap(1, onlyKnown)))
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, accepted(t, 1), tap(2, onlyKnown)))
	// Failures do not make a token known.
	r := &state.Record{}
	decide(t, r, tap(1, mismatched))
	if r.Status != state.Noted || r.Known() {
		t.Errorf("status %d", r.Status)
	}
	want{state.Reject, state.Fresh, false, reasons(state.TokenUnknown)}.check(t, decide(t, r, tap(1, onlyKnown)))
	change(t, r, state.Change{Status: state.Active})
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1, onlyKnown)))
}

func TestRestrictions(t *testing.T) {
	t.Parallel()
	place := func(f func(p *state.Place)) option { return func(e *state.Event) { f(&e.Place) } }
	phone, shop := state.NameHash{1}, state.NameHash{2}
	for name, c := range map[string]struct {
		r    state.Restriction
		good option
		bad  []option
		why  state.Reason
	}{
		"device": {
			state.Restriction{Device: phone},
			place(func(p *state.Place) { p.Device = phone }),
			[]option{place(func(p *state.Place) { p.Device = shop })},
			state.DeviceMismatch,
		},
		"channel": {
			state.Restriction{Channels: 1<<state.ATM | 1<<state.Transit},
			place(func(p *state.Place) { p.Channel = state.Transit }),
			[]option{
				place(func(p *state.Place) { p.Channel = state.Ecommerce }),
				place(func(p *state.Place) { p.Channel = 200 }),
				place(func(p *state.Place) { p.Channel = 11 }), // 3 more than eight bits
			},
			state.ChannelRestricted,
		},
		"merchant": {
			state.Restriction{Merchants: []state.NameHash{{}, shop}},
			place(func(p *state.Place) { p.Merchant = shop }),
			[]option{place(func(p *state.Place) { p.Merchant = phone })},
			state.MerchantRestricted,
		},
		"category": {
			state.Restriction{Categories: []uint16{0, 0x4111}},
			place(func(p *state.Place) { p.Category = 0x4111 }),
			[]option{place(func(p *state.Place) { p.Category = 0x5411 })},
			state.MerchantRestricted,
		},
		"terminal": {
			state.Restriction{Terminals: []uint8{0, 0x22}},
			place(func(p *state.Place) { p.Terminal = 0x22 }),
			[]option{place(func(p *state.Place) { p.Terminal = 0x14 })},
			state.MerchantRestricted,
		},
		"currency": {
			state.Restriction{Currencies: []uint16{0x0978}},
			func(*state.Event) {},
			[]option{func(e *state.Event) { e.Currency = 0x0840 }},
			state.CurrencyRestricted,
		},
		"amount": {
			state.Restriction{AmountCap: 1000},
			func(*state.Event) {},
			[]option{func(e *state.Event) { e.Amount = 1001 }},
			state.AmountOverCap,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := accepted(t, 1)
			change(t, r, state.Change{Restrict: &c.r})
			want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(2, c.good)))
			bad := c.bad
			if name != "currency" && name != "amount" {
				bad = append(bad, func(*state.Event) {}) // what is not said does not satisfy
			}
			for _, o := range bad {
				want{state.Reject, state.Fresh, false, reasons(c.why)}.check(t, decide(t, r, tap(3, o)))
			}
			want{state.Reject, state.Repeated, true, reasons(c.why)}.check(t, decide(t, r, tap(2, bad[0])))
			change(t, r, state.Change{Restrict: &state.Restriction{}})
			want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(3, bad[0])))
		})
	}
}

// More reasons than an outcome has room for: the most important ones, in order,
// and the result is none the softer.
func TestMostReasons(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1000)
	change(t, r, state.Change{Status: state.Suspended, Restrict: &state.Restriction{
		Device: state.NameHash{1}, Channels: 2, Merchants: []state.NameHash{{1}}, Currencies: []uint16{1}, AmountCap: 1,
	}})
	all := reasons(
		state.TokenSuspended, state.DeviceStopped, state.BINStopped, state.KeyStopped,
		state.DeviceMismatch, state.ChannelRestricted, state.MerchantRestricted, state.CurrencyRestricted,
	)
	if len(all) != state.MaxReasons {
		t.Fatalf("MaxReasons is %d", state.MaxReasons)
	}
	want{state.Reject, state.Fresh, false, all}.check(t, decide(t, r, tap(5000, stops(7))))
	want{state.Reject, state.Repeated, true, all}.check(t, decide(t, r, tap(1000, stops(7))))
	want{state.Reject, state.NotChecked, false, append(reasons(state.CryptogramMismatch), all[:7]...)}.check(t,
		decide(t, r, tap(1000, stops(7), mismatched)))
}

func TestRespond(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1000, 1001)
	want{state.Accept, state.Fresh, true, nil}.check(t, decide(t, r, tap(1000, responds(1))))
	want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(1000, responds(1))))
	want{state.Reject, state.Repeated, true, reasons(state.AlreadyResponded)}.check(t, decide(t, r, tap(1000, responds(2))))
	want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(1000, responds(1))))
	want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(1000)))
	want{state.Accept, state.Fresh, true, nil}.check(t, decide(t, r, tap(1001, responds(2))))
	// Never accepted, accepted in another request, no decision, not authentic.
	want{state.Reject, state.NotChecked, false, reasons(state.NotAccepted)}.check(t, decide(t, r, tap(1002, responds(1))))
	want{state.Reject, state.NotChecked, false, reasons(state.NotAccepted)}.check(t, decide(t, r, tap(1001, request(5), responds(1))))
	want{state.Reject, state.Repeated, true, reasons(state.NotAccepted)}.check(t, decide(t, r, tap(1001, responds(0))))
	want{state.Reject, state.NotChecked, false, reasons(state.CryptogramMismatch)}.check(t, decide(t, r, tap(1001, responds(2), mismatched)))
	// It consumes nothing.
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1002)))
	// And gets none by an advice, or after the request is forgotten.
	decide(t, r, tap(1003, ofType(state.TypeARQC)))
	want{state.Reject, state.NotChecked, false, reasons(state.NotAccepted)}.check(t, decide(t, r, tap(1003, responds(1))))
	decide(t, r, tap(1004))
	decide(t, r, tap(1005))
	want{state.Reject, state.NotChecked, false, reasons(state.NotAccepted)}.check(t, decide(t, r, tap(1000, responds(1))))
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1000)
	advice := purpose(state.Advice)
	// Of an ARQC: whether AUTHORISE accepted it. It consumes nothing.
	want{state.Accept, state.Replayed, true, nil}.check(t, decide(t, r, tap(1000, advice)))
	want{state.Accept, state.Replayed, true, nil}.check(t, decide(t, r, tap(1000, advice, request(5))))
	want{state.Accept, state.Late, false, nil}.check(t, decide(t, r, tap(999, advice)))
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1001, advice)))
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1001, advice)))
	want{state.Accept, state.CannotTell, false, nil}.check(t, decide(t, r, tap(936, advice)))
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1001)))
	want{state.Reject, state.NotChecked, false, reasons(state.CryptogramMismatch)}.check(t, decide(t, r, tap(1000, advice, mismatched)))
	for _, typ := range []state.CryptogramType{state.TypeTC, state.TypeAAC} {
		r := accepted(t, 1000)
		// Of a TC or AAC: by itself, and whether AUTHORISE accepted its ATC. What
		// the card says of its cryptogram is not authenticated.
		want{state.Accept, state.Fresh, true, nil}.check(t, decide(t, r, tap(1000, ofType(typ))))
		want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(1000, ofType(typ))))
		want{state.Accept, state.Replayed, true, nil}.check(t, decide(t, r, tap(1000, ofType(typ), request(5))))
		want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1005, ofType(typ))))
		want{state.Accept, state.Repeated, false, nil}.check(t, decide(t, r, tap(1005, ofType(typ))))
		want{state.Accept, state.Replayed, true, nil}.check(t, decide(t, r, tap(1005, ofType(typ), request(5))))
		want{state.Accept, state.Late, false, nil}.check(t, decide(t, r, tap(1003, ofType(typ))))
		want{state.Accept, state.CannotTell, false, nil}.check(t, decide(t, r, tap(900, ofType(typ))))
		if other := 3 - typ; typ == state.TypeTC && r.AAC.Seen != 0 || typ == state.TypeAAC && r.TC.Seen != 0 {
			t.Errorf("type %d has the bits of %d", other, typ)
		}
		// AUTHORISE is not refused by it.
		want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1005, request(6))))
		want{state.Accept, state.Repeated, true, nil}.check(t, decide(t, r, tap(1005, request(6))))
	}
	// A token that only an advice made known.
	r = &state.Record{}
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(7, ofType(state.TypeTC))))
	if !r.Known() || r.ARQC.Seen != 0 {
		t.Errorf("%+v", r)
	}
}
