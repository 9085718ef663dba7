package worker

import (
	"errors"
	"fmt"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// Every combination of step results, also ones that do not exist: only a
// comparison that matched with the response it should have is Matched, and only
// with the subjects that it should have.
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
				if got := new(keyTable).statusOf(&j, wants); got != want {
					t.Fatalf("steps %d, %d, response wanted %v: got %x, want %x", compared, response, wants, got, want)
				}
				hashing := keyTable{subjects: [2]keys.Version{{Number: 2}, {Number: 1}}}
				if got := hashing.statusOf(&j, wants); got != frame.StatusTokenFailure {
					t.Fatalf("steps %d, %d, without subjects: got %x", compared, response, got)
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
		{ErrNotBound, frame.StatusNotBound},
		{fmt.Errorf("%w: key", ErrSubject), frame.StatusTokenFailure},
		{errors.New("CKR_DEVICE_ERROR"), frame.StatusTokenFailure},
		{errNotExecuted, frame.StatusTokenFailure},
	} {
		j := Job{Err: c.err}
		// An outcome beside an error must not be looked at.
		j.Outcome.Steps[0].Status = cryptogram.Matched
		if got := new(keyTable).statusOf(&j, false); got != c.want {
			t.Errorf("%v: got %x, want %x", c.err, got, c.want)
		}
	}
}

// A comparison has exactly the subjects of the keys in force.
func TestStatusNeedsItsSubjects(t *testing.T) {
	for _, tc := range []struct {
		name        string
		keys, given [2]uint32
		want        frame.Status
	}{
		{"no key, none", [2]uint32{}, [2]uint32{}, frame.StatusMatched},
		{"no key, one", [2]uint32{}, [2]uint32{1}, frame.StatusTokenFailure},
		{"one key, one", [2]uint32{1}, [2]uint32{1}, frame.StatusMatched},
		{"one key, none", [2]uint32{1}, [2]uint32{}, frame.StatusTokenFailure},
		{"one key, of another version", [2]uint32{1}, [2]uint32{2}, frame.StatusTokenFailure},
		{"one key, two", [2]uint32{2}, [2]uint32{2, 1}, frame.StatusTokenFailure},
		{"rotation, two", [2]uint32{2, 1}, [2]uint32{2, 1}, frame.StatusMatched},
		{"rotation, the current only", [2]uint32{2, 1}, [2]uint32{2}, frame.StatusTokenFailure},
		{"rotation, exchanged", [2]uint32{2, 1}, [2]uint32{1, 2}, frame.StatusTokenFailure},
	} {
		table := keyTable{subjects: [2]keys.Version{{Number: tc.keys[0]}, {Number: tc.keys[1]}}}
		var j Job
		j.Outcome.Steps[0].Status = cryptogram.Matched
		for i, v := range tc.given {
			j.Subjects[i].Version = v
		}
		if got := table.statusOf(&j, false); got != tc.want {
			t.Errorf("%s: got %x, want %x", tc.name, got, tc.want)
		}
	}
}
