package verdict

import (
	"errors"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/state/store"
	"github.com/tapseal/tapseal/keys"
)

// A KeyTable says what the workers serve.
type KeyTable interface {
	// Key reports false for a key that no worker has ever named.
	Key(set string, version uint32) (hsm.KeyInfo, bool)
	// Ready reports whether a worker is connected.
	Ready() bool
}

// Rules are what one deployment decides by.
type Rules struct {
	Assignments    *keys.Assignments
	Keys           KeyTable
	DefaultTimeout time.Duration
}

// A Case is one tap from submission to decision. It is reused: Prepare
// overwrites everything but Call's sink.
type Case struct {
	Call       hsm.Call // to be submitted if NeedsHSM
	Purpose    Purpose
	Resolution keys.Resolution
	NeedsHSM   bool
	// Op asks for the state of the token. To be submitted if Recall says so.
	Op       store.Op
	Decision Decision // set by Prepare if not NeedsHSM, else by Recall or Settle
	// AnswerBy is when the answer must leave, whatever is known by then. The
	// call's own deadline is earlier, so that its answer can still be recorded.
	AnswerBy time.Time

	data cryptogram.CardData

	// What a request's digest is made of, and where its response begins.
	content      [maxContentBytes]byte
	contentBytes int
	askBytes     int
}

// Prepare parses t, finds profile and key and builds the call. now starts the
// tap's time; latest, unless zero, is a deadline that the transport set. Every
// error is safe to show: it names a tag or a field and holds no value.
func (r *Rules) Prepare(t *Tap, now, latest time.Time, c *Case) error {
	c.Decision, c.NeedsHSM, c.Purpose = Decision{}, false, t.Purpose
	c.Resolution = keys.Resolution{}
	if err := checkEnvelope(t); err != nil {
		return err
	}
	pan, psn, err := parseSubject(t)
	if err != nil {
		return err
	}
	if err := parseCard(t, &c.data); err != nil {
		return err
	}
	if c.Resolution, err = r.Assignments.Resolve(pan, c.data.IAD(), t.Profile); err != nil {
		return resolveError(err)
	}
	req, profile := &c.Call.Request, c.Resolution.Profile
	if err := cryptogram.NewRequest(&c.data, pan, psn, t.HasPSN, profile, c.Resolution.Option, req); err != nil {
		return inField("chip_data", err)
	}
	if t.Response.Kind != cryptogram.NoResponse {
		if err := profile.CheckResponse(t.Response); err != nil {
			return inField("decision", err)
		}
		if err := c.data.CheckAsksForResponse(); err != nil {
			return inField("chip_data", err)
		}
		req.Response = t.Response
	}
	c.Call.Deadline, c.AnswerBy = r.deadlines(t, now, latest)
	r.consultKey(c)
	if !c.NeedsHSM {
		return nil
	}
	return c.remember(t)
}

// What of a tap's time is kept back: for its record, which has to be on disk
// before the answer, and for the answer's way out.
const (
	recordShare   = 50 * time.Millisecond
	recordPart    = 4 // of the time, if that is less
	departure     = 5 * time.Millisecond
	departurePart = 50
)

// deadlines are those of the HSM and of the answer.
func (r *Rules) deadlines(t *Tap, now, latest time.Time) (hsm, answer time.Time) {
	d := r.DefaultTimeout
	if t.TimeoutMS != 0 {
		d = time.Duration(t.TimeoutMS) * time.Millisecond
	}
	if left := latest.Sub(now); !latest.IsZero() && left < d {
		d = max(left, 0)
	}
	at := now.Add(d)
	return at.Add(-min(recordShare, d/recordPart)), at.Add(-min(departure, d/departurePart))
}

// consultKey decides what the key's state already decides. The worker checks
// state and binding again, from its own manifest.
func (r *Rules) consultKey(c *Case) {
	k, known := r.Keys.Key(c.Resolution.KeySet, c.Resolution.KeyVersion)
	switch {
	case !known && !r.Keys.Ready():
		c.Decision = unknown(NoWorker, RetryBackoff) // none was ever there: the key may well be served
	case !known || !k.Serves(c.Resolution.Profile.ID):
		c.Decision = unknown(KeyUnavailable, RetryOperator)
	case !k.State.Verifies():
		c.Decision = invalid(KeyNotActive)
	default:
		c.Call.Key = k.ID
		c.NeedsHSM = true
	}
}

// Recall looks at the HSM's answer, and reports whether the state of the token
// has to be asked: Op is ready then, and Settle comes after it. If not, the
// decision is there. fit says that the workers hash tokens with the key that the
// state knows them by: without it, nothing that was compared is decided.
func (c *Case) Recall(fit bool) bool {
	compared := c.Call.Answer == hsm.Matched || c.Call.Answer == hsm.Mismatched
	if c.NeedsHSM && compared && fit && c.askState() {
		return true
	}
	switch {
	case c.NeedsHSM && compared && !fit:
		c.Decision = unknown(StateUnavailable, RetryOperator)
	case c.NeedsHSM:
		c.Decision = Decide(c.Call.Answer)
	}
	c.Decision = c.Decision.Final()
	return false
}

// Settle turns what the HSM and the state of the token say into the decision.
func (c *Case) Settle() {
	c.Decision = DecideState(c.Call.Answer, &c.Op.Outcome, c.Op.Err).Final()
}

// ARPC is the response cryptogram, 0, 4 or 8 bytes of the case's memory. There
// is none unless the decision is VALID.
func (c *Case) ARPC() []byte {
	if c.Decision.Verdict != Valid || c.Call.Answer != hsm.Matched {
		return nil
	}
	return c.Call.ARPC[:c.Call.ARPCBytes]
}

// Wipe forgets the cardholder data, before the case waits for reuse.
func (c *Case) Wipe() {
	c.data = cryptogram.CardData{}
	c.Call.Request = cryptogram.Request{}
	c.Call.ARPC, c.Call.ARPCBytes, c.Call.Answer = [8]byte{}, 0, 0
	c.Call.Subjects = [2]hsm.Subject{}
	c.Op = store.Op{Owner: c.Op.Owner}
	clear(c.content[:c.contentBytes])
	c.contentBytes = 0
}

// resolveError keeps the errors that are made to be shown and hides any other.
func resolveError(err error) error {
	var re *keys.ResolveError
	var te cryptogram.TagError
	if errors.As(err, &re) || errors.As(err, &te) {
		return err
	}
	return errInternal
}
