// Package verdict has the rules between a submitted tap and its verdict:
// parse, resolve profile and key, key state, what the HSM's answer means, and
// what goes on record. It does no input or output of its own.
package verdict

import "github.com/tapseal/tapseal/hsm"

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
)

// MaxReason is the highest Reason, for tables indexed by it.
const MaxReason = Overloaded

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
	Reason  Reason
	Retry   Retry
}

func unknown(why Reason, retry Retry) Decision { return Decision{Unknown, why, retry} }

// NotRecorded is the decision when the journal did not take the record: the
// verdict exists, but must not leave.
func NotRecorded() Decision { return unknown(AuditUnavailable, RetryBackoff) }

// Decide says what an answer of the HSM means. Only Matched is VALID; only
// Mismatched and KeyInactive, which compared or refused, are INVALID; whatever
// else there is or will be is UNKNOWN.
func Decide(a hsm.Answer) Decision {
	switch a {
	case hsm.Matched:
		return Decision{Verdict: Valid}
	case hsm.Mismatched:
		return Decision{Invalid, CryptogramMismatch, 0}
	case hsm.KeyInactive:
		return Decision{Invalid, KeyNotActive, 0}
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

// Final is the decision that may leave the process: anything that is not
// complete is UNKNOWN.
func (d Decision) Final() Decision {
	switch {
	case d == Decision{Verdict: Valid}:
		return d
	case d.Verdict == Invalid && d.Reason != 0 && d.Retry == 0:
		return d
	case d.Verdict == Unknown && d.Reason != 0 && d.Retry != 0:
		return d
	}
	return unknown(HSMFailure, RetryBackoff)
}
