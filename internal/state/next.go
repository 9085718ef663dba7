// Package state is what the service remembers of tokens, and the one rule by
// which it changes: Next. The rule is pure. Where records are kept, and how many
// daemons share them, is an Engine's business, which never looks into one.
package state

import "math/bits"

// Next decides on an event and changes the record accordingly; changed says
// whether it has to be written before the outcome may leave. r is the record of
// the event's token, empty if there is none.
//
// It asks, in this order: is it a repeat of an accepted request, does the state
// of the token (its device, BIN and key) allow it, do the limits, does the replay
// window; the outcome has all their reasons. What an attempt says before it
// proved authentic does not depend on whether it is: a token's counters change
// only after the cryptogram matched, and where the limits defer an attempt the
// outcome is the same for a right and a wrong one.
func Next(r *Record, e *Event) (o Outcome, changed bool) {
	if r.Status == Moved || !e.decidable() {
		return Outcome{}, false
	}
	raised := r.raise(&e.Floor)
	n := next{r: r, e: e}
	changed = n.decide()
	return n.o, changed || (raised && n.o.Result == Accept)
}

// A next is one decision under way.
type next struct {
	r       *Record
	e       *Event
	refused bool
	o       Outcome
}

// decidable reports whether the event says what is asked and by which policy. A
// zero value of either gets no answer, whatever the record says.
func (e *Event) decidable() bool {
	return e.Policy != nil && e.Policy.Mode >= Strict && e.Policy.Mode <= Observe &&
		e.Purpose >= Authorise && e.Purpose <= Respond
}

func (n *next) decide() (changed bool) {
	n.o.Freshness = NotChecked
	if i := n.repeatOf(); i >= 0 {
		return n.repeat(&n.r.Accepted[i])
	}
	n.tokenState()
	if after := n.waits(); after > 0 {
		n.o.add(AttemptsLimited)
		n.o.RetryAfterSec = after
		n.o.Result = Defer
		if n.refused {
			n.o.Result, n.o.RetryAfterSec = Reject, 0
		}
		return false
	}
	if !n.e.Matched {
		return n.mismatch()
	}
	switch n.e.Purpose {
	case Authorise:
		return n.authorise()
	case Advice:
		return n.advise()
	case Respond:
		n.refuse(NotAccepted)
	}
	return n.finish(false)
}

// repeatOf finds the accepted request that this authentic one repeats.
func (n *next) repeatOf() int {
	if !n.e.Matched || n.e.Purpose == Advice {
		return -1
	}
	for i := range n.r.Accepted {
		if a := &n.r.Accepted[i]; a.ATC == n.e.ATC && n.e.is(a.Digest) {
			return i
		}
	}
	return -1
}

// is reports whether d is this request's. A zero digest is nobody's.
func (e *Event) is(d Digest) bool {
	return d != Digest{} && (d == e.Requests[0] || d == e.Requests[1])
}

// repeat answers an accepted request again, or makes its response. What has
// happened to the token since then wins.
func (n *next) repeat(a *Accepted) (changed bool) {
	n.o.AcceptedBefore = true
	n.o.Freshness = Repeated
	n.tokenState()
	if n.e.Purpose != Respond {
		return n.finish(false)
	}
	none := [ResponseBytes]byte{}
	switch {
	case n.e.Response == none:
		n.refuse(NotAccepted)
	case a.Response == none:
		n.o.Freshness = Fresh
		if !n.refused {
			a.Response = n.e.Response
			changed = true
		}
	case a.Response != n.e.Response && a.Response != n.e.PreviousResponse:
		n.refuse(AlreadyResponded)
	}
	return n.finish(changed)
}

func (n *next) refuse(r Reason) {
	n.o.add(r)
	n.refused = true
}

// react adds a reason and refuses if the policy says so, or says nothing.
func (n *next) react(r Reason, how Reaction) {
	n.o.add(r)
	n.refused = n.refused || how != AcceptWithReason
}

func (n *next) finish(changed bool) bool {
	if n.refused {
		n.o.Result = Reject
		return false
	}
	n.o.Result = Accept
	return changed
}

// tokenState asks whether the token may be used at all, and here.
func (n *next) tokenState() {
	switch n.r.Status {
	case Active:
	case Suspended:
		n.refuse(TokenSuspended)
	case Deleted:
		n.refuse(TokenDeleted)
	default:
		if n.e.Policy.OnUnknown != AcceptWithReason {
			n.refuse(TokenUnknown)
		}
	}
	for _, s := range [...]struct {
		stop   Stop
		reason Reason
	}{{StopDevice, DeviceStopped}, {StopBIN, BINStopped}, {StopKey, KeyStopped}} {
		if n.e.Stops&s.stop != 0 {
			n.refuse(s.reason)
		}
	}
	if !n.r.Restricted.IsZero() {
		n.restricted(&n.r.Restricted)
	}
}

func (n *next) restricted(r *Restriction) {
	p := &n.e.Place
	if r.Device != (NameHash{}) && r.Device != p.Device {
		n.refuse(DeviceMismatch)
	}
	if r.Channels != 0 && (p.Channel == 0 || p.Channel > maxChannel || r.Channels&(1<<p.Channel) == 0) {
		n.refuse(ChannelRestricted)
	}
	merchant := len(r.Merchants) == 0 || (p.Merchant != NameHash{} && contains(r.Merchants, p.Merchant))
	category := len(r.Categories) == 0 || (p.Category != 0 && contains(r.Categories, p.Category))
	terminal := len(r.Terminals) == 0 || (p.Terminal != 0 && contains(r.Terminals, p.Terminal))
	if !merchant || !category || !terminal {
		n.refuse(MerchantRestricted)
	}
	if len(r.Currencies) > 0 && !contains(r.Currencies, n.e.Currency) {
		n.refuse(CurrencyRestricted)
	}
	if r.AmountCap != 0 && n.e.Amount > r.AmountCap {
		n.refuse(AmountOverCap)
	}
}

func contains[T comparable](list []T, v T) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}

// authorise consumes the ATC.
func (n *next) authorise() bool {
	n.window()
	n.reuse()
	n.velocity()
	if n.refused {
		return n.finish(false)
	}
	n.r.accept(n.e)
	return n.finish(true)
}

// window looks for the ATC among those accepted.
func (n *next) window() {
	r, p, atc := n.r, n.e.Policy, n.e.ATC
	w := &r.ARQC
	react := func(why Reason, how Reaction) {
		if p.Mode == Observe {
			how = AcceptWithReason
		}
		n.react(why, how)
	}
	onUnder := p.OnUnder
	if p.Mode == Strict {
		onUnder = Refuse // nothing below the highest one is accepted, however far
	}
	switch {
	case n.underFloor():
		n.o.Freshness = CannotTell
		n.refuse(ATCUnderFloor)
	case w.Seen == 0 || atc > w.Highest:
		n.o.Freshness = Fresh
		if p.MaxJump != 0 && w.Seen != 0 && atc-w.Highest > p.MaxJump {
			react(ATCJump, p.OnJump)
		}
	case w.has(atc) || r.remembers(atc):
		n.o.Freshness, n.o.AcceptedBefore = Replayed, true
		react(CryptogramReplayed, Refuse)
	case w.Highest-atc >= WindowBits:
		n.o.Freshness = CannotTell
		react(ATCUnderWindow, onUnder)
	case w.Highest-atc >= uint16(p.WindowSize):
		n.o.Freshness = Late
		react(ATCUnderWindow, onUnder)
	default:
		n.o.Freshness = Late
		if p.Mode != WindowMode {
			react(ATCLate, Refuse)
		}
	}
}

// underFloor reports whether the cryptogram may have been accepted by a state
// that is lost. A floor is raised from the highest ATC that was accepted when the
// state was saved. Where there was none, only the date tells what the lost state
// accepted: before the first one, and as long as the record has no floor below it.
func (n *next) underFloor() bool {
	if n.r.Floor != 0 && n.e.ATC <= n.r.Floor {
		return true
	}
	dated := n.r.Floor == 0 || n.r.ARQC.Seen == 0
	return dated && n.e.Floor.Date != 0 && n.e.Date <= n.e.Floor.Date
}

// remembers reports whether a remembered request has the ATC. The window forgets
// one that was accepted under it.
func (r *Record) remembers(atc uint16) bool {
	for i := range r.Accepted {
		if r.Accepted[i].ATC == atc {
			return true
		}
	}
	return false
}

// reuse looks for the unpredictable number among the remembered requests.
func (n *next) reuse() {
	for i := range n.r.Accepted {
		if a := &n.r.Accepted[i]; a.UN == n.e.UN && a.ATC != n.e.ATC {
			n.react(UNReused, n.e.Policy.OnUNReuse)
			return
		}
	}
}

// accept puts an accepted request on record.
func (r *Record) accept(e *Event) {
	r.know(e)
	if r.ARQC.Seen == 0 && r.Floor != 0 && e.Floor.Date != 0 {
		r.Floor = max(r.Floor, e.ATC-1) // the date said that this one is new, and says nothing of those below
	}
	r.ARQC.add(e.ATC)
	r.Accepted = append(r.Accepted, Accepted{ATC: e.ATC, Digest: e.Requests[0], UN: e.UN})
	if extra := len(r.Accepted) - max(1, min(int(e.Policy.Remember), MaxAccepted)); extra > 0 {
		r.Accepted = r.Accepted[:copy(r.Accepted, r.Accepted[extra:])]
	}
	r.forgive(e.Caller)
	r.Velocity = e.velocityAfter(r.Velocity)
}

// advise reports, of a token that may not be used any more as well. Only what the
// card says was approved or declined offline is remembered, for its own sake: it
// neither consumes an ATC nor refuses one.
func (n *next) advise() bool {
	authorised, before := n.r.ARQC.knows(n.e.ATC)
	if !before && n.r.remembers(n.e.ATC) {
		authorised, before = Replayed, true
	}
	a := n.r.advised(n.e.Type)
	if a == nil {
		n.tell(authorised, before)
		return n.finish(false)
	}
	if n.e.is(a.Last) && a.has(n.e.ATC) {
		// Its first answer was that nobody had reported it.
		n.o.Freshness, n.o.AcceptedBefore = Repeated, before
		return n.finish(false)
	}
	reported, again := a.knows(n.e.ATC)
	n.tell(reported, before || again)
	if n.refused || again || reported == CannotTell {
		return n.finish(false)
	}
	n.r.know(n.e)
	a.add(n.e.ATC)
	a.Last = n.e.Requests[0]
	return n.finish(true)
}

// tell puts down what an advice is told. Where a state was lost, nobody can
// tell that something was not accepted.
func (n *next) tell(f Freshness, before bool) {
	if f != Replayed && !before && n.underFloor() {
		f = CannotTell
	}
	n.o.Freshness, n.o.AcceptedBefore = f, before
}

// know makes a token known by its first accepted cryptogram.
func (r *Record) know(e *Event) {
	if !r.Known() {
		r.Status, r.Generation = Active, e.Floor.Generation
	}
}

func (r *Record) advised(t CryptogramType) *Advised {
	switch t {
	case TypeTC:
		return &r.TC
	case TypeAAC:
		return &r.AAC
	default:
		return nil
	}
}

// has reports whether the ATC, which is inside the window, is in it.
func (w *Window) has(atc uint16) bool {
	return atc <= w.Highest && w.Highest-atc < WindowBits && w.Seen>>(w.Highest-atc)&1 != 0
}

// knows says of an ATC where it is, and whether it was seen.
func (w *Window) knows(atc uint16) (Freshness, bool) {
	switch {
	case w.Seen == 0 || atc > w.Highest:
		return Fresh, false
	case w.Highest-atc >= WindowBits:
		return CannotTell, false
	case w.has(atc):
		return Replayed, true
	}
	return Late, false
}

// add puts an ATC into the window. One under it is not remembered.
func (w *Window) add(atc uint16) {
	switch {
	case w.Seen == 0:
		w.Highest, w.Seen = atc, 1
	case atc > w.Highest:
		// Shifting by 64 or more gives 0 in Go, which is right.
		w.Seen = w.Seen<<(atc-w.Highest) | 1
		w.Highest = atc
	case w.Highest-atc < WindowBits:
		w.Seen |= 1 << (w.Highest - atc)
	}
}

// Accepted is the number of ATCs that the window has seen.
func (w *Window) Accepted() int { return bits.OnesCount64(w.Seen) }

// raise applies a floor to a record of an older generation. What lies between
// the record's highest ATC and the floor may have been accepted and forgotten, and
// below the highest one what was late: with a raise of 0 that is left.
func (r *Record) raise(f *Floor) bool {
	if !r.Known() || r.Generation == f.Generation {
		return false
	}
	r.Generation = f.Generation
	if highest := max(r.Floor, r.ARQC.Highest); r.ARQC.Seen != 0 || r.Floor != 0 {
		r.Floor = uint16(min(int(highest)+int(f.Raise), 0xFFFF))
	}
	return true
}
