package worker

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
)

// Every combination of step results, also ones that do not exist: only a
// comparison that matched with the response it should have is Matched.
func TestStatusOfEveryOutcome(t *testing.T) {
	for compared := range 256 {
		for response := range 256 {
			for _, wants := range []bool{false, true} {
				var j Job
				j.Outcome.Steps[0].Status = cryptogram.StepStatus(compared)
				j.Outcome.Steps[1].Status = cryptogram.StepStatus(response)
				want := frame.StatusTokenFailure
				switch {
				case compared == int(cryptogram.Matched) && wants && response == int(cryptogram.Produced),
					compared == int(cryptogram.Matched) && !wants && response == int(cryptogram.NotRun):
					want = frame.StatusMatched
				case compared == int(cryptogram.Mismatched) && response == int(cryptogram.NotRun):
					want = frame.StatusMismatched
				}
				if got := statusOf(&j, wants); got != want {
					t.Fatalf("steps %d, %d, response wanted %v: got %x, want %x", compared, response, wants, got, want)
				}
			}
		}
	}
}

func TestStatusOfError(t *testing.T) {
	for _, c := range []struct {
		err  error
		want frame.Status
	}{
		{ErrKeyUnknown, frame.StatusKeyUnknown},
		{fmt.Errorf("wrapped: %w", ErrKeyUnproven), frame.StatusKeyUnproven},
		{errors.New("CKR_DEVICE_ERROR"), frame.StatusTokenFailure},
		{errNotExecuted, frame.StatusTokenFailure},
	} {
		j := Job{Err: c.err}
		// An outcome beside an error must not be looked at.
		j.Outcome.Steps[0].Status = cryptogram.Matched
		if got := statusOf(&j, false); got != c.want {
			t.Errorf("%v: got %x, want %x", c.err, got, c.want)
		}
	}
}
