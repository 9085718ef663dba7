package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/cryptogram"
)

// A profileCase ties a profile to the published vectors of its cryptogram and
// of its response. The vectors hold the message, from which iad makes tag 9F10.
type profileCase struct {
	profile, scheme string
	ac, arpc        string // vector ids
	iad             func(appended []byte) []byte
	named           bool // the request names the profile
	cvr             bool // the request gives the appended bytes as CVR

	// For a profile without a vector of its own: the cryptogram, and what
	// Respond must answer, by the referee.
	acOf   func(t *tapsealv1.Tap) []byte
	arpcOf func(tb testing.TB, t *tapsealv1.Tap, req *tapsealv1.RespondRequest) (arpc, tag91 []byte)
}

func wholeIAD(b []byte) []byte { return b }

func mchip(cvn byte) func([]byte) []byte {
	return func(b []byte) []byte {
		counters := make([]byte, 8)
		copy(counters, b[6:])
		return slices.Concat([]byte{0x01, cvn}, b[:6], []byte{0, 0}, counters)
	}
}

func profileCases() []profileCase {
	visa10 := func(cvr []byte) []byte { return append([]byte{0x06, 0x01, 0x0A}, cvr...) }
	none := func([]byte) []byte { return nil }
	return []profileCase{
		{"visa-cvn10", "visa", "ac-pyemv-visa_cvn10", "arpc-pyemv-visa_cvn10", visa10, false, false, nil, nil},
		{"visa-cvn18", "visa", "ac-pyemv-visa_cvn18", "arpc-pyemv-visa_cvn18", wholeIAD, false, false, nil, nil},
		{"interac-cvn133", "interac", "ac-pyemv-interac_cvn133", "arpc-pyemv-interac_cvn133", wholeIAD, true, false, nil, nil},
		{"mastercard-cvn16", "mastercard", "ac-pyemv-mastercard_cvn16", "arpc-pyemv-mastercard_cvn16", mchip(0x10), false, false, nil, nil},
		{"mastercard-cvn17", "mastercard", "ac-pyemv-mastercard_cvn17", "arpc-pyemv-mastercard_cvn17", mchip(0x11), false, false, nil, nil},
		{"mastercard-cvn20", "mastercard", "ac-pyemv-mastercard_cvn20", "arpc-pyemv-mastercard_cvn20", mchip(0x14), false, false, nil, nil},
		{"mastercard-cvn21", "mastercard", "ac-pyemv-mastercard_cvn21", "arpc-pyemv-mastercard_cvn21", mchip(0x15), false, false, nil, nil},
		{"emv-ccd", "emv-ccd", "ac-emvco-a33", "arpc-emvco-a34", wholeIAD, false, false, nil, nil},
		{"pboc-tdes", "pboc", "ac-pboc-1", "arpc-pboc-1", none, true, true, nil, nil},
	}
}

// tap makes the request for the case's vector, its data as separate values.
func (c profileCase) tap(tb testing.TB, id string) *tapsealv1.Tap {
	tb.Helper()
	v := vector(tb, "arqc.json", c.ac)
	d := unhex(tb, v.Data)
	psn := v.PSN
	appended := d[33:]
	t := &tapsealv1.Tap{
		RequestId: id, Purpose: tapsealv1.Purpose_PURPOSE_AUTHORISE, Pan: v.PAN, Psn: &psn,
		ChipData: &tapsealv1.Tap_Values{Values: &tapsealv1.ChipData{
			AmountAuthorised: d[:6], AmountOther: d[6:12], TerminalCountryCode: d[12:14],
			TerminalVerificationResults: d[14:19], TransactionCurrencyCode: d[19:21], TransactionDate: d[21:24],
			TransactionType: d[24:25], UnpredictableNumber: d[25:29], ApplicationInterchangeProfile: d[29:31],
			ApplicationTransactionCounter: d[31:33], IssuerApplicationData: c.iad(appended),
			ApplicationCryptogram: unhex(tb, v.Expected["ac"]),
		}},
	}
	if c.named {
		t.Profile = c.profile
	}
	if c.cvr {
		t.GetValues().CardVerificationResults = appended
	}
	if c.acOf != nil {
		t.GetValues().ApplicationCryptogram = c.acOf(t)
	}
	return t
}

// field55 turns the tap's values into BER-TLV.
func field55(t *tapsealv1.Tap) *tapsealv1.Tap {
	out, _ := proto.Clone(t).(*tapsealv1.Tap)
	v := out.GetValues()
	var b []byte
	for _, e := range []struct {
		tag   []byte
		value []byte
	}{
		{[]byte{0x9F, 0x02}, v.GetAmountAuthorised()},
		{[]byte{0x9F, 0x03}, v.GetAmountOther()},
		{[]byte{0x9F, 0x1A}, v.GetTerminalCountryCode()},
		{[]byte{0x95}, v.GetTerminalVerificationResults()},
		{[]byte{0x5F, 0x2A}, v.GetTransactionCurrencyCode()},
		{[]byte{0x9A}, v.GetTransactionDate()},
		{[]byte{0x9C}, v.GetTransactionType()},
		{[]byte{0x9F, 0x37}, v.GetUnpredictableNumber()},
		{[]byte{0x82}, v.GetApplicationInterchangeProfile()},
		{[]byte{0x9F, 0x36}, v.GetApplicationTransactionCounter()},
		{[]byte{0x9F, 0x10}, v.GetIssuerApplicationData()},
		{[]byte{0x9F, 0x26}, v.GetApplicationCryptogram()},
	} {
		if len(e.value) > 0 {
			b = append(append(append(b, e.tag...), byte(len(e.value))), e.value...)
		}
	}
	out.CardVerificationResults = v.GetCardVerificationResults()
	out.ChipData = &tapsealv1.Tap_Field55{Field55: b}
	return out
}

// respondRequest makes the request for the response of the case's vector, and
// what must come back.
func (c profileCase) respondRequest(tb testing.TB, t *tapsealv1.Tap) (req *tapsealv1.RespondRequest, arpc, tag91 []byte) {
	tb.Helper()
	v := vector(tb, "arpc.json", c.arpc)
	arpc = unhex(tb, v.Expected["arpc"])
	if v.CSU != "" {
		csu := unhex(tb, v.CSU)
		return &tapsealv1.RespondRequest{Tap: t, Decision: &tapsealv1.RespondRequest_CardStatusUpdate{
			CardStatusUpdate: &tapsealv1.CardStatusUpdate{Csu: csu},
		}}, arpc, slices.Concat(arpc, csu)
	}
	arc := unhex(tb, v.ARC)
	return &tapsealv1.RespondRequest{Tap: t, Decision: &tapsealv1.RespondRequest_AuthorisationResponseCode{
		AuthorisationResponseCode: arc,
	}}, arpc, slices.Concat(arpc, arc)
}

// wrongDecision is the request with the other ARPC method's decision.
func wrongDecision(req *tapsealv1.RespondRequest) *tapsealv1.RespondRequest {
	out := &tapsealv1.RespondRequest{Tap: req.GetTap(), Decision: &tapsealv1.RespondRequest_AuthorisationResponseCode{
		AuthorisationResponseCode: []byte("00"),
	}}
	if req.GetAuthorisationResponseCode() != nil {
		out.Decision = &tapsealv1.RespondRequest_CardStatusUpdate{CardStatusUpdate: &tapsealv1.CardStatusUpdate{Csu: make([]byte, 4)}}
	}
	return out
}

// forged is the tap with one bit of the cryptogram changed.
func forged(t *tapsealv1.Tap, bit int) *tapsealv1.Tap {
	out, _ := proto.Clone(t).(*tapsealv1.Tap)
	ac := out.GetValues().GetApplicationCryptogram()
	if ac == nil { // the cryptogram is the last object of field 55
		b := out.GetField55()
		ac = b[len(b)-8:]
	}
	ac[bit/8] ^= 1 << (bit % 8)
	return out
}

func TestProfilesAgainstPublishedVectors(t *testing.T) {
	for _, c := range append(profileCases(), visa22Case()) {
		t.Run(c.profile, func(t *testing.T) {
			r := newRig(t, c.scheme)
			values := c.tap(t, "a")
			for form, tap := range map[string]*tapsealv1.Tap{"values": values, "field55": field55(values)} {
				t.Run(form, func(t *testing.T) { r.checkProfile(t, c, tap) })
			}
		})
	}
}

func (r *rig) checkProfile(t *testing.T, c profileCase, tap *tapsealv1.Tap) {
	t.Helper()
	r.want(t, tap, tapsealv1.Verdict_VERDICT_VALID, 0)
	for _, bit := range []int{0, 7, 31, 63} {
		r.want(t, forged(tap, bit), tapsealv1.Verdict_VERDICT_INVALID, tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH)
	}
	req, arpc, tag91 := c.respondRequest(t, tap)
	if c.arpcOf != nil {
		arpc, tag91 = c.arpcOf(t, tap, req)
	}
	got, err := r.client.Respond(context.Background(), req)
	if err != nil {
		t.Fatal(err)
	}
	if v := got.GetVerification(); v.GetVerdict() != tapsealv1.Verdict_VERDICT_VALID || v.GetProfile() != c.profile {
		t.Fatalf("respond: %v", v)
	}
	if !bytes.Equal(got.GetArpc(), arpc) || !bytes.Equal(got.GetIssuerAuthenticationData(), tag91) {
		t.Errorf("response cryptogram or tag 91 differs from the vector")
	}
	req.Tap = forged(tap, 5)
	if got, err = r.client.Respond(context.Background(), req); err != nil {
		t.Fatal(err)
	}
	if got.GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_INVALID || len(got.GetArpc())+len(got.GetIssuerAuthenticationData()) != 0 {
		t.Errorf("a forged tap got verdict %v and %d bytes of response", got.GetVerification().GetVerdict(), len(got.GetArpc()))
	}
	req.Tap = tap
	wantInvalidArgument(t, r.respondError(wrongDecision(req)), "decision")
}

func (r *rig) respondError(req *tapsealv1.RespondRequest) error {
	_, err := r.client.Respond(context.Background(), req)
	return err
}

func (r *rig) verify(tap *tapsealv1.Tap) (*tapsealv1.Verification, error) {
	resp, err := r.client.VerifyCryptogram(context.Background(), &tapsealv1.VerifyCryptogramRequest{Tap: tap})
	return resp.GetVerification(), err
}

// want verifies tap and checks everything that goes with the verdict.
func (r *rig) want(t *testing.T, tap *tapsealv1.Tap, verdict tapsealv1.Verdict, reason tapsealv1.Reason) *tapsealv1.Verification {
	t.Helper()
	v, err := r.verify(tap)
	if err != nil {
		t.Fatalf("verify: %v", err)
	}
	if err := checkAnswer(v, verdict, reason); err != nil {
		t.Fatal(err)
	}
	return v
}

func checkAnswer(v *tapsealv1.Verification, verdict tapsealv1.Verdict, reason tapsealv1.Reason) error {
	var reasons []tapsealv1.Reason
	if reason != 0 {
		reasons = []tapsealv1.Reason{reason}
	}
	switch {
	case v.GetVerdict() != verdict || (verdict != tapsealv1.Verdict_VERDICT_VALID && !slices.Equal(v.GetReasons(), reasons)):
		return fmt.Errorf("got %v %v, want %v %v", v.GetVerdict(), v.GetReasons(), verdict, reasons)
	case (v.GetRetry() != 0) != (verdict == tapsealv1.Verdict_VERDICT_UNKNOWN):
		return fmt.Errorf("%v with retry class %v", verdict, v.GetRetry())
	case (v.GetFreshness() > tapsealv1.Freshness_FRESHNESS_NOT_CHECKED) != (verdict == tapsealv1.Verdict_VERDICT_VALID):
		return fmt.Errorf("%v with freshness %v", verdict, v.GetFreshness())
	case v.GetKeySet() != "test" || v.GetKeyVersion() == 0:
		return fmt.Errorf("key set %q version %d", v.GetKeySet(), v.GetKeyVersion())
	}
	if _, ok := cryptogram.ProfileByName(v.GetProfile()); !ok {
		return fmt.Errorf("profile %q", v.GetProfile())
	}
	return nil
}
