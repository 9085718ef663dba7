// Package verdict has the rules between a submitted tap and its verdict:
// parse, resolve profile and key, key state, what the HSM's answer means, and
// what goes on record. It does no input or output of its own.
package verdict

import (
	"errors"

	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
)

// Verdict is the number of tapseal.v1.Verdict. The zero value means nothing
// and is never sent.
type Verdict uint8

// Verdicts. Values far apart are not needed here: Decide is the only place
// that makes one from an HSM's answer, and its answers come checked.
const (
	Valid   Verdict = 1
	Invalid Verdict = 2
	Unknown Verdict = 3
)

// Reason is the number of tapseal.v1.Reason. Zero is none.
type Reason uint8

// Reasons.
const (
	CryptogramMismatch Reason = 1
	KeyNotActive       Reason = 2
	DeadlineExceeded   Reason = 3
	NoWorker           Reason = 4
	HSMFailure         Reason = 5
	KeyUnproven        Reason = 6
	KeyUnavailable     Reason = 7
	AttemptsLimited    Reason = 8
	AuditUnavailable   Reason = 9
	Overloaded         Reason = 10
	CryptogramReplayed Reason = 11
	ATCLate            Reason = 12
	ATCUnderWindow     Reason = 13
	ATCUnderFloor      Reason = 14
	ATCJump            Reason = 15
	UNReused           Reason = 16
	TokenSuspended     Reason = 17
	TokenDeleted       Reason = 18
	TokenUnknown       Reason = 19
	DeviceStopped      Reason = 20
	BINStopped         Reason = 21
	KeyStopped         Reason = 22
	DeviceMismatch     Reason = 23
	ChannelRestricted  Reason = 24
	MerchantRestricted Reason = 25
	CurrencyRestricted Reason = 26
	AmountOverCap      Reason = 27
	VelocityCount      Reason = 28
	VelocityAmount     Reason = 29
	NotAccepted        Reason = 30
	AlreadyResponded   Reason = 31
	StateUnavailable   Reason = 32
)

// MaxReason is the highest Reason, for tables indexed by it.
const MaxReason = StateUnavailable

// MaxReasons is the most that a decision has.
const MaxReasons = state.MaxReasons

// Retry is the number of tapseal.v1.RetryClass. Zero is none, and stands
// beside Unknown never.
type Retry uint8

// Retry classes.
const (
	RetryImmediate Retry = 1
	RetryBackoff   Retry = 2
	RetryOperator  Retry = 3
)

// A Decision is the outcome of one well-formed tap. The zero value is no
// decision; Final turns it into UNKNOWN.
type Decision struct {
	Verdict Verdict
	Reason  Reason // the most important one; beside Valid, what the policy let pass
	Retry   Retry

	More           [MaxReasons - 1]Reason // zero terminated
	Freshness      state.Freshness
	AcceptedBefore bool
	RetryAfterSec  uint32 // with RetryBackoff; 0: not known
}

// Repeated reports whether this very request was accepted before.
func (d *Decision) Repeated() bool { return d.Verdict == Valid && d.Freshness == state.Repeated }

func unknown(why Reason, retry Retry) Decision {
	return Decision{Verdict: Unknown, Reason: why, Retry: retry, Freshness: state.NotChecked}
}

func invalid(why Reason) Decision {
	return Decision{Verdict: Invalid, Reason: why, Freshness: state.NotChecked}
}

// NotRecorded is the decision when the journal did not take the record: the
// verdict exists, but must not leave.
func NotRecorded() Decision { return unknown(AuditUnavailable, RetryBackoff) }

// Decide says what an answer of the HSM means by itself. A cryptogram that
// matched is no verdict yet, and one that did not counts against its caller: what
// both mean, the state of the token says (DecideState). The rest is UNKNOWN,
// whatever else there will be, but for a key that is not active.
func Decide(a hsm.Answer) Decision {
	switch a {
	case hsm.Matched, hsm.Mismatched:
		return unknown(StateUnavailable, RetryBackoff)
	case hsm.KeyInactive:
		return invalid(KeyNotActive)
	case hsm.KeyUnknown, hsm.NotBound:
		return unknown(KeyUnavailable, RetryOperator)
	case hsm.KeyUnproven:
		return unknown(KeyUnproven, RetryOperator)
	case hsm.GuessLimit:
		return unknown(AttemptsLimited, RetryBackoff)
	case hsm.DeadlineExceeded:
		return unknown(DeadlineExceeded, RetryBackoff)
	case hsm.NoWorker:
		return unknown(NoWorker, RetryBackoff)
	case hsm.Overloaded:
		return unknown(Overloaded, RetryBackoff)
	case hsm.Malformed:
		// We checked the request before it left: the worker's profile table
		// is another one than ours, which no repetition mends.
		return unknown(HSMFailure, RetryOperator)
	default:
		return unknown(HSMFailure, RetryBackoff)
	}
}

// DecideState says what the state of the token makes of an answer that compared:
// only a cryptogram that matched, and that the state accepts, is VALID.
func DecideState(a hsm.Answer, o *state.Outcome, err error) Decision {
	compared := a == hsm.Matched || a == hsm.Mismatched
	switch {
	case !compared:
		return Decide(a)
	case err != nil:
		return stateFailed(err)
	}
	d := Decision{Freshness: o.Freshness, AcceptedBefore: o.AcceptedBefore}
	for i, r := range o.Reasons() {
		if i == 0 {
			d.Reason = Reason(r)
		} else {
			d.More[i-1] = Reason(r)
		}
	}
	switch {
	case o.Result == state.Accept && a == hsm.Matched:
		d.Verdict = Valid
	case o.Result == state.Reject:
		d.Verdict = Invalid
	case o.Result == state.Defer:
		d.Verdict, d.Retry, d.RetryAfterSec = Unknown, RetryBackoff, o.RetryAfterSec
	default:
		return unknown(StateUnavailable, RetryBackoff)
	}
	return d
}

// stateFailed is the decision without an outcome.
func stateFailed(err error) Decision {
	switch {
	case errors.Is(err, store.ErrDeadline):
		return unknown(DeadlineExceeded, RetryBackoff)
	case errors.Is(err, state.ErrRegressed), errors.Is(err, store.ErrSubject), errors.Is(err, store.ErrDamaged):
		return unknown(StateUnavailable, RetryOperator)
	}
	return unknown(StateUnavailable, RetryBackoff)
}

// Final is the decision that may leave the process: anything that is not
// complete is UNKNOWN.
func (d Decision) Final() Decision {
	switch {
	case d.Verdict == Valid && d.Retry == 0 && d.Freshness > state.NotChecked:
		return d
	case d.Verdict == Invalid && d.Reason != 0 && d.Retry == 0:
		return d
	case d.Verdict == Unknown && d.Reason != 0 && d.Retry != 0:
		return d
	}
	return unknown(HSMFailure, RetryBackoff)
}
