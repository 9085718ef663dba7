package phone

import "encoding/hex"

// sessionMethod is the way from the card key to the cryptogram's key.
type sessionMethod int

const (
	cardKeyItself sessionMethod = iota + 1
	emvCommon
	mastercardSKD
	pbocProcess
)

// personality is how the card application of one profile behaves: what it
// sends as issuer application data, and what it puts under its cryptogram.
type personality struct {
	aid        string                  // tag 84, hexadecimal
	iad        string                  // tag 9F10, hexadecimal
	cvr        string                  // hexadecimal, where the IAD does not tell it
	appended   func(iad []byte) []byte // follows the common data; nil: the CVR above
	session    sessionMethod
	zeroPadded bool // ISO 9797-1 padding method 1 instead of 2
}

// Parts of the issuer application data that go under a cryptogram.
func wholeIAD(iad []byte) []byte         { return iad }
func visaCVR(iad []byte) []byte          { return iad[3:7] }
func mchipCVR(iad []byte) []byte         { return iad[2:8] }
func mchipCVRCounters(iad []byte) []byte { return append(append([]byte{}, iad[2:8]...), iad[10:]...) }

// Pieces of the sample data below.
const (
	mchipCVRAndDAC = "A00003220000" + "0000"
	counters8      = "00000000000322FF"
	zeros8         = "0000000000000000"
)

// personalities is the table of all profiles. Layouts of the issuer
// application data, as reported by the decoders of openemv/emv-utils and jPOS:
//
//	Visa format 0, 1    06 DKI CVN CVR(4)
//	Visa format 2       1F CVN DKI CVR(5) IDD(24)
//	M/Chip 4            DKI CVN CVR(6) DAC(2) counters(8)
//	M/Chip Advance      DKI CVN CVR(6) DAC(2) counters(8 or 16) [last online ATC(2)]
//	CCD                 0F CCI DKI CVR(5) 00(8) 0F 00(15)
//
// Interac's is the one of pyemv's test; PBOC's is not read by anyone. What is
// under each cryptogram: pyemv (cvn.py) and, for CCD, the EMVCo example A.3.3;
// for PBOC as reported by Chinese web pages (see docs/schemes.md).
func personalities() map[string]personality {
	return map[string]personality{
		"visa-cvn10": {
			aid: "A0000000031010", iad: "06010A03A00000",
			appended: visaCVR, session: cardKeyItself, zeroPadded: true,
		},
		"visa-cvn18": {
			aid: "A0000000031010", iad: "06011203A00000",
			appended: wholeIAD, session: emvCommon,
		},
		"visa-cvn22": {
			aid: "A0000000031010", iad: "1F220103A0000000" + zeros8 + zeros8 + zeros8,
			appended: wholeIAD, session: emvCommon,
		},
		"mastercard-cvn16": {
			aid: "A0000000041010", iad: "0110" + mchipCVRAndDAC + counters8,
			appended: mchipCVR, session: mastercardSKD,
		},
		"mastercard-cvn17": {
			aid: "A0000000041010", iad: "0111" + mchipCVRAndDAC + counters8,
			appended: mchipCVRCounters, session: mastercardSKD,
		},
		"mastercard-cvn20": {
			aid: "A0000000041010", iad: "0114" + mchipCVRAndDAC + counters8 + "0000",
			appended: mchipCVR, session: emvCommon,
		},
		"mastercard-cvn21": {
			aid: "A0000000041010", iad: "0115" + mchipCVRAndDAC + counters8 + "00000000000044FF",
			appended: mchipCVRCounters, session: emvCommon,
		},
		"interac-cvn133": {
			aid: "A0000002771010", iad: "1501850440B100000000B00000000000000000000000",
			appended: wholeIAD, session: mastercardSKD,
		},
		"emv-ccd": {
			aid: "A0000000041010", iad: "0FA501A038000000" + zeros8 + "0F" + "00000000000000" + zeros8,
			appended: wholeIAD, session: emvCommon,
		},
		"pboc-tdes": {
			aid: "A000000333010101", iad: "0701010380A80001", cvr: "0380A800",
			session: pbocProcess,
		},
	}
}

// Profiles are the names of the profiles that the phone can play, in the
// order of the verifier's table.
func Profiles() []string {
	return []string{
		"visa-cvn10", "visa-cvn18", "visa-cvn22",
		"mastercard-cvn16", "mastercard-cvn17", "mastercard-cvn20", "mastercard-cvn21",
		"interac-cvn133", "emv-ccd", "pboc-tdes",
	}
}

// unhex decodes a constant of this package.
func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}
