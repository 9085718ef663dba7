package server

import (
	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/verdict"
)

// maxValues is the number of data elements in ChipData that have a tag.
const maxValues = 13

// A reading is the memory for turning one request into a verdict.Tap.
type reading struct {
	tap    verdict.Tap
	values [maxValues]verdict.Value
}

// read refers to m's memory and copies nothing. It checks only what is lost in
// the translation.
func (r *reading) read(m *tapsealv1.Tap) (*verdict.Tap, error) {
	if m == nil {
		return nil, &verdict.InputError{Field: "tap", Problem: "is required"}
	}
	t := &r.tap
	*t = verdict.Tap{
		RequestID: m.GetRequestId(),
		Purpose:   verdict.Purpose(m.GetPurpose()),
		CVR:       m.GetCardVerificationResults(),
		PAN:       m.GetPan(),
		PSN:       m.GetPsn(),
		HasPSN:    m.Psn != nil,
		Profile:   m.GetProfile(),
		TimeoutMS: m.GetTimeoutMs(),
	}
	if p := m.GetPlace(); p != nil {
		t.Place = verdict.Place{
			Channel: int32(p.GetChannel()), Category: p.GetMerchantCategoryCode(), Terminal: p.GetTerminalType(),
			Merchant: p.GetMerchantId(), Device: p.GetDeviceId(),
		}
	}
	switch d := m.GetChipData().(type) {
	case *tapsealv1.Tap_Field55:
		if t.Field55 = d.Field55; t.Field55 == nil {
			t.Field55 = []byte{}
		}
	case *tapsealv1.Tap_Values:
		if err := r.readValues(d.Values); err != nil {
			return t, err
		}
	}
	return t, nil
}

func (r *reading) readValues(v *tapsealv1.ChipData) error {
	t := &r.tap
	t.Values = r.values[:0]
	for _, e := range [maxValues]verdict.Value{
		{Tag: cryptogram.TagAmountAuthorised, Bytes: v.GetAmountAuthorised()},
		{Tag: cryptogram.TagAmountOther, Bytes: v.GetAmountOther()},
		{Tag: cryptogram.TagTerminalCountry, Bytes: v.GetTerminalCountryCode()},
		{Tag: cryptogram.TagTVR, Bytes: v.GetTerminalVerificationResults()},
		{Tag: cryptogram.TagCurrency, Bytes: v.GetTransactionCurrencyCode()},
		{Tag: cryptogram.TagDate, Bytes: v.GetTransactionDate()},
		{Tag: cryptogram.TagType, Bytes: v.GetTransactionType()},
		{Tag: cryptogram.TagUN, Bytes: v.GetUnpredictableNumber()},
		{Tag: cryptogram.TagAIP, Bytes: v.GetApplicationInterchangeProfile()},
		{Tag: cryptogram.TagATC, Bytes: v.GetApplicationTransactionCounter()},
		{Tag: cryptogram.TagIAD, Bytes: v.GetIssuerApplicationData()},
		{Tag: cryptogram.TagCryptogram, Bytes: v.GetApplicationCryptogram()},
		{Tag: cryptogram.TagCID, Bytes: v.GetCryptogramInformationData()},
	} {
		if len(e.Bytes) > 0 {
			t.Values = append(t.Values, e)
		}
	}
	cvr := v.GetCardVerificationResults()
	if len(cvr) > 0 && len(t.CVR) > 0 {
		return &verdict.InputError{Field: "card_verification_results", Problem: "is given both in the tap and in its values"}
	}
	if len(cvr) > 0 {
		t.CVR = cvr
	}
	return nil
}

// readDecision reads the issuer's decision of a RespondRequest.
func readDecision(m *tapsealv1.RespondRequest) (cryptogram.Response, error) {
	var r cryptogram.Response
	switch d := m.GetDecision().(type) {
	case *tapsealv1.RespondRequest_AuthorisationResponseCode:
		r.Kind = cryptogram.ResponseCode
		if len(d.AuthorisationResponseCode) != len(r.ARC) {
			return r, &verdict.InputError{Field: "authorisation_response_code", Problem: "must have 2 bytes"}
		}
		copy(r.ARC[:], d.AuthorisationResponseCode)
	case *tapsealv1.RespondRequest_CardStatusUpdate:
		r.Kind = cryptogram.CardStatusUpdate
		csu, pad := d.CardStatusUpdate.GetCsu(), d.CardStatusUpdate.GetProprietaryAuthenticationData()
		if len(csu) != len(r.CSU) {
			return r, &verdict.InputError{Field: "card_status_update.csu", Problem: "must have 4 bytes"}
		}
		if len(pad) > len(r.PAD) {
			return r, &verdict.InputError{Field: "card_status_update.proprietary_authentication_data", Problem: "must have at most 8 bytes"}
		}
		copy(r.CSU[:], csu)
		r.PADLen = uint8(copy(r.PAD[:], pad)) //nolint:gosec // at most 8
	default:
		return r, &verdict.InputError{Field: "decision", Problem: "is required: authorisation_response_code or card_status_update"}
	}
	return r, nil
}

// writeVerification fills in v, keeping its reasons' memory.
func writeVerification(v *tapsealv1.Verification, t *tap) {
	d := t.Decision.Final()
	v.Verdict = tapsealv1.Verdict(d.Verdict)
	v.Reasons = v.Reasons[:0]
	if d.Reason != 0 {
		v.Reasons = append(v.Reasons, tapsealv1.Reason(d.Reason))
	}
	v.Profile = t.Resolution.Profile.Name
	v.KeySet = t.Resolution.KeySet
	v.KeyVersion = t.Resolution.KeyVersion
	for _, r := range d.More {
		if r == 0 {
			break
		}
		v.Reasons = append(v.Reasons, tapsealv1.Reason(r))
	}
	v.Freshness = tapsealv1.Freshness(d.Freshness)
	v.Retry = tapsealv1.RetryClass(d.Retry)
	v.Repeated, v.AcceptedBefore = d.Repeated(), d.AcceptedBefore
	v.RetryAfterMs = d.RetryAfterSec * 1000
}

// issuerAuthenticationData is the value of tag 91: the response cryptogram and
// what it was made from.
func issuerAuthenticationData(arpc []byte, r *cryptogram.Response) []byte {
	out := append([]byte(nil), arpc...)
	if r.Kind == cryptogram.ResponseCode {
		return append(out, r.ARC[:]...)
	}
	out = append(out, r.CSU[:]...)
	return append(out, r.PAD[:r.PADLen]...)
}
