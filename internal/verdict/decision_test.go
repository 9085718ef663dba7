package verdict

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
)

func TestDecideEveryAnswer(t *testing.T) {
	want := map[hsm.Answer]Decision{
		// What was compared is not decided before the state of the token is known.
		hsm.Matched:          unknown(StateUnavailable, RetryBackoff),
		hsm.Mismatched:       unknown(StateUnavailable, RetryBackoff),
		hsm.KeyUnknown:       unknown(KeyUnavailable, RetryOperator),
		hsm.KeyUnproven:      unknown(KeyUnproven, RetryOperator),
		hsm.KeyInactive:      invalid(KeyNotActive),
		hsm.NotBound:         unknown(KeyUnavailable, RetryOperator),
		hsm.Malformed:        unknown(HSMFailure, RetryOperator),
		hsm.GuessLimit:       unknown(AttemptsLimited, RetryBackoff),
		hsm.DeadlineExceeded: unknown(DeadlineExceeded, RetryBackoff),
		hsm.NoWorker:         unknown(NoWorker, RetryBackoff),
		hsm.TokenFailure:     unknown(HSMFailure, RetryBackoff),
		hsm.Overloaded:       unknown(Overloaded, RetryBackoff),
	}
	// All 256 values: what this version does not know is UNKNOWN as well.
	for i := range math.MaxUint8 + 1 {
		a := hsm.Answer(i)
		d, listed := want[a]
		if !listed {
			d = unknown(HSMFailure, RetryBackoff)
		}
		if got := Decide(a); got != d || got.Final() != d {
			t.Errorf("answer %d: %+v, final %+v, want %+v", i, got, got.Final(), d)
		}
	}
	if named := len(want); named != len(hsm.Stats{}.Answers)-1 {
		t.Errorf("%d answers in this table, the pool has %d", named, len(hsm.Stats{}.Answers)-1)
	}
}

// TestOnlyMatchedAndAcceptedIsValid goes through every answer of the HSM, result
// of the state and error there can be.
func TestOnlyMatchedAndAcceptedIsValid(t *testing.T) {
	failures := []error{
		nil, state.ErrUnavailable, state.ErrControlChanged, state.ErrRegressed, state.ErrBroken,
		store.ErrDeadline, store.ErrBusy, store.ErrClosed, store.ErrDamaged, store.ErrSubject, errors.New("whatever"),
	}
	for a := range math.MaxUint8 + 1 {
		for result := range 6 {
			for _, err := range failures {
				o := state.Outcome{Result: state.Result(result), Freshness: state.Fresh}
				d := DecideState(hsm.Answer(a), &o, err).Final()
				accepted := hsm.Answer(a) == hsm.Matched && o.Result == state.Accept && err == nil
				if (d.Verdict == Valid) != accepted {
					t.Fatalf("answer %d, result %d, error %v: %+v", a, result, err, d)
				}
				if err != nil && d.Verdict == Invalid && hsm.Answer(a) != hsm.KeyInactive {
					t.Fatalf("answer %d, result %d, error %v: trouble made an INVALID", a, result, err)
				}
			}
		}
	}
}

// TestFinalNeverInvents checks that an incomplete or contradictory decision is
// UNKNOWN, and that Final neither makes nor changes a VALID or INVALID.
func TestFinalNeverInvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Decision{
			Verdict: Verdict(rapid.Uint8Range(0, 5).Draw(t, "verdict")), Reason: Reason(rapid.Uint8Range(0, 12).Draw(t, "reason")),
			Retry: Retry(rapid.Uint8Range(0, 4).Draw(t, "retry")), Freshness: state.Freshness(rapid.Uint8Range(0, 6).Draw(t, "freshness")),
		}
		f := d.Final()
		if f.Verdict != Valid && f.Verdict != Invalid && f.Verdict != Unknown {
			t.Fatalf("%+v became verdict %d", d, f.Verdict)
		}
		if f.Verdict != Unknown && f != d {
			t.Fatalf("%+v became %+v", d, f)
		}
		if (f.Verdict != Valid && f.Reason == 0) || (f.Verdict == Unknown) != (f.Retry != 0) {
			t.Fatalf("%+v is incomplete", f)
		}
		if f.Verdict == Valid && f.Freshness <= state.NotChecked {
			t.Fatalf("%+v is VALID, and nobody looked whether it is new", f)
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
	for own, states := range map[Reason]state.Reason{
		CryptogramMismatch: state.CryptogramMismatch, AttemptsLimited: state.AttemptsLimited, CryptogramReplayed: state.CryptogramReplayed,
		ATCLate: state.ATCLate, ATCUnderWindow: state.ATCUnderWindow, ATCUnderFloor: state.ATCUnderFloor, ATCJump: state.ATCJump,
		UNReused: state.UNReused, TokenSuspended: state.TokenSuspended, TokenDeleted: state.TokenDeleted, TokenUnknown: state.TokenUnknown,
		DeviceStopped: state.DeviceStopped, BINStopped: state.BINStopped, KeyStopped: state.KeyStopped, DeviceMismatch: state.DeviceMismatch,
		ChannelRestricted: state.ChannelRestricted, MerchantRestricted: state.MerchantRestricted, CurrencyRestricted: state.CurrencyRestricted,
		AmountOverCap: state.AmountOverCap, VelocityCount: state.VelocityCount, VelocityAmount: state.VelocityAmount,
		NotAccepted: state.NotAccepted, AlreadyResponded: state.AlreadyResponded,
	} {
		if own != Reason(states) {
			t.Errorf("reason %d is %d in package state", own, states)
		}
	}
	for f, want := range map[state.Freshness]tapsealv1.Freshness{
		state.NotChecked: tapsealv1.Freshness_FRESHNESS_NOT_CHECKED, state.Fresh: tapsealv1.Freshness_FRESHNESS_FRESH,
		state.Late: tapsealv1.Freshness_FRESHNESS_LATE, state.Repeated: tapsealv1.Freshness_FRESHNESS_REPEATED,
		state.Replayed: tapsealv1.Freshness_FRESHNESS_REPLAYED, state.CannotTell: tapsealv1.Freshness_FRESHNESS_CANNOT_TELL,
	} {
		if tapsealv1.Freshness(f) != want {
			t.Errorf("freshness %d is not %v", f, want)
		}
	}
	if len(tapsealv1.Channel_name) != int(state.Transit)+1 {
		t.Error("the API has other channels")
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
