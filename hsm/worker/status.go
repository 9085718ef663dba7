package worker

import (
	"errors"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
)

// errNotExecuted stands in each job until the token overwrites it: a token
// that forgets a job cannot leave an old outcome behind.
var errNotExecuted = errors.New("the token did not run this job")

// statusOf is the status of the reply. A comparison without exactly the
// subjects that belong to it is a token failure: nobody could tell whether the
// cryptogram was accepted before.
func (t *keyTable) statusOf(j *Job, wantsResponse bool) frame.Status {
	s := outcomeOf(j, wantsResponse)
	if (s == frame.StatusMatched || s == frame.StatusMismatched) && !t.hashed(&j.Subjects) {
		return frame.StatusTokenFailure
	}
	return s
}

// outcomeOf maps what the token did to the one status of the reply. Only a
// comparison that ran and matched is Matched, only one that ran and did not
// is Mismatched; everything that was not foreseen is a token failure.
func outcomeOf(j *Job, wantsResponse bool) frame.Status {
	if j.Err != nil {
		return statusOfError(j.Err)
	}
	compared, response := j.Outcome.Steps[0].Status, j.Outcome.Steps[1].Status
	//exhaustive:enforce
	switch compared {
	case cryptogram.Matched:
		switch {
		case wantsResponse && response == cryptogram.Produced,
			!wantsResponse && response == cryptogram.NotRun:
			return frame.StatusMatched
		default:
			return frame.StatusTokenFailure
		}
	case cryptogram.Mismatched:
		if response != cryptogram.NotRun {
			return frame.StatusTokenFailure
		}
		return frame.StatusMismatched
	case cryptogram.NotRun, cryptogram.Produced:
		return frame.StatusTokenFailure
	default:
		return frame.StatusTokenFailure
	}
}

func statusOfError(err error) frame.Status {
	switch {
	case errors.Is(err, ErrKeyUnknown):
		return frame.StatusKeyUnknown
	case errors.Is(err, ErrKeyUnproven):
		return frame.StatusKeyUnproven
	case errors.Is(err, ErrNotBound):
		return frame.StatusNotBound
	default:
		return frame.StatusTokenFailure
	}
}
