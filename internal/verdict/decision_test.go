package verdict

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/hsm"
)

func TestDecideEveryAnswer(t *testing.T) {
	want := map[hsm.Answer]Decision{
		hsm.Matched:          {Valid, 0, 0},
		hsm.Mismatched:       {Invalid, CryptogramMismatch, 0},
		hsm.KeyUnknown:       {Unknown, KeyUnavailable, RetryOperator},
		hsm.KeyUnproven:      {Unknown, KeyUnproven, RetryOperator},
		hsm.KeyInactive:      {Invalid, KeyNotActive, 0},
		hsm.NotBound:         {Unknown, KeyUnavailable, RetryOperator},
		hsm.Malformed:        {Unknown, HSMFailure, RetryOperator},
		hsm.GuessLimit:       {Unknown, AttemptsLimited, RetryBackoff},
		hsm.DeadlineExceeded: {Unknown, DeadlineExceeded, RetryBackoff},
		hsm.NoWorker:         {Unknown, NoWorker, RetryBackoff},
		hsm.TokenFailure:     {Unknown, HSMFailure, RetryBackoff},
		hsm.Overloaded:       {Unknown, Overloaded, RetryBackoff},
	}
	// All 256 values: what this version does not know is UNKNOWN as well.
	for i := range math.MaxUint8 + 1 {
		a := hsm.Answer(i)
		d, listed := want[a]
		if !listed {
			d = Decision{Unknown, HSMFailure, RetryBackoff}
		}
		if got := Decide(a); got != d || got.Final() != d {
			t.Errorf("answer %d: %+v, final %+v, want %+v", i, got, got.Final(), d)
		}
	}
	if named := len(want); named != len(hsm.Stats{}.Answers)-1 {
		t.Errorf("%d answers in this table, the pool has %d", named, len(hsm.Stats{}.Answers)-1)
	}
}

// TestFinalNeverInvents checks that an incomplete or contradictory decision is
// UNKNOWN, and that Final neither makes nor changes a VALID or INVALID.
func TestFinalNeverInvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Decision{
			Verdict(rapid.Uint8Range(0, 5).Draw(t, "verdict")), Reason(rapid.Uint8Range(0, 12).Draw(t, "reason")),
			Retry(rapid.Uint8Range(0, 4).Draw(t, "retry")),
		}
		f := d.Final()
		if f.Verdict != Valid && f.Verdict != Invalid && f.Verdict != Unknown {
			t.Fatalf("%+v became verdict %d", d, f.Verdict)
		}
		if f.Verdict != Unknown && f != d {
			t.Fatalf("%+v became %+v", d, f)
		}
		if (f.Verdict == Valid) != (f.Reason == 0) || (f.Verdict == Unknown) != (f.Retry != 0) {
			t.Fatalf("%+v is incomplete", f)
		}
	})
	if (Decision{}).Final().Verdict != Unknown {
		t.Error("no decision must be UNKNOWN")
	}
}

// TestNumbersAreTheAPIs ties this package's numbers and names to the public
// contract, which it must not import.
func TestNumbersAreTheAPIs(t *testing.T) {
	for v, name := range tapsealv1.Verdict_name {
		if v != 0 && "VERDICT_"+Verdict(v).String() != name { //nolint:gosec // small
			t.Errorf("verdict %d is %s in the API", v, name)
		}
	}
	for r, name := range tapsealv1.Reason_name {
		if r != 0 && "REASON_"+Reason(r).String() != name { //nolint:gosec // small
			t.Errorf("reason %d is %s in the API", r, name)
		}
	}
	if len(tapsealv1.Reason_name) != int(MaxReason)+1 || len(tapsealv1.Verdict_name) != int(Unknown)+1 {
		t.Error("the API has other verdicts or reasons")
	}
	for n, want := range map[int32]tapsealv1.RetryClass{
		int32(RetryImmediate): tapsealv1.RetryClass_RETRY_CLASS_IMMEDIATE,
		int32(RetryBackoff):   tapsealv1.RetryClass_RETRY_CLASS_BACKOFF,
		int32(RetryOperator):  tapsealv1.RetryClass_RETRY_CLASS_OPERATOR,
	} {
		if tapsealv1.RetryClass(n) != want {
			t.Errorf("retry class %d is not %v", n, want)
		}
	}
	if int32(Authorise) != int32(tapsealv1.Purpose_PURPOSE_AUTHORISE) || int32(Advice) != int32(tapsealv1.Purpose_PURPOSE_ADVICE) {
		t.Error("purposes differ from the API")
	}
}
