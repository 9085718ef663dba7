package server

import (
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the algorithm under test
	"encoding/hex"
	"slices"
	"testing"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// No public vector has Visa's IAD format 2, so for visa-cvn22 a referee written
// from docs/schemes.md alone says what is right: common session key, retail MAC
// with padding method 2, ARPC method 2.

func visa22Case() profileCase {
	return profileCase{
		profile: "visa-cvn22", scheme: "visa", ac: "ac-pyemv-visa_cvn18", arpc: "arpc-pyemv-visa_cvn18",
		iad:  func([]byte) []byte { return slices.Concat(unhexFixed("1F220103A0B80000"), make([]byte, 24)) },
		acOf: refereeAC, arpcOf: refereeARPC,
	}
}

func unhexFixed(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func refereeSessionKey(t *tapsealv1.Tap) []byte {
	imk := tdes(unhexFixed(testIssuers()["visa"].key))
	y := unhexFixed((t.GetPan() + t.GetPsn())[2:]) // 16 + 2 digits, the rightmost 16
	inverted := make([]byte, 8)
	for i := range y {
		inverted[i] = ^y[i]
	}
	card := tdes(slices.Concat(ecb(imk, y), ecb(imk, inverted)))
	atc := t.GetValues().GetApplicationTransactionCounter()
	if atc == nil {
		b := t.GetField55()
		i := slices.Index(b, 0x36) // the only object with this byte in its tag
		atc = b[i+2 : i+4]
	}
	left, right := []byte{atc[0], atc[1], 0xF0, 7: 0}, []byte{atc[0], atc[1], 0x0F, 7: 0}
	return slices.Concat(ecb(card, left), ecb(card, right))
}

func refereeAC(t *tapsealv1.Tap) []byte {
	v := t.GetValues()
	return retailMAC(refereeSessionKey(t), slices.Concat(v.GetAmountAuthorised(), v.GetAmountOther(), v.GetTerminalCountryCode(),
		v.GetTerminalVerificationResults(), v.GetTransactionCurrencyCode(), v.GetTransactionDate(), v.GetTransactionType(),
		v.GetUnpredictableNumber(), v.GetApplicationInterchangeProfile(), v.GetApplicationTransactionCounter(), v.GetIssuerApplicationData()))
}

func refereeARPC(_ testing.TB, t *tapsealv1.Tap, req *tapsealv1.RespondRequest) (arpc, tag91 []byte) {
	ac := t.GetValues().GetApplicationCryptogram()
	if ac == nil {
		b := t.GetField55()
		ac = b[len(b)-8:]
	}
	csu := req.GetCardStatusUpdate().GetCsu()
	arpc = retailMAC(refereeSessionKey(t), slices.Concat(ac, csu))[:4]
	return arpc, slices.Concat(arpc, csu)
}

func tdes(key []byte) cipher.Block {
	c, err := des.NewTripleDESCipher(slices.Concat(key, key[:8])) //nolint:gosec // as above
	if err != nil {
		panic(err)
	}
	return c
}

func ecb(c cipher.Block, block []byte) []byte {
	out := make([]byte, 8)
	c.Encrypt(out, block)
	return out
}

func retailMAC(key, data []byte) []byte {
	data = append(slices.Clone(data), 0x80)
	for len(data)%8 != 0 {
		data = append(data, 0)
	}
	single, err := des.NewCipher(key[:8]) //nolint:gosec // as above
	if err != nil {
		panic(err)
	}
	h := make([]byte, 8)
	for i := 0; i < len(data); i += 8 {
		for j := range h {
			h[j] ^= data[i+j]
		}
		if i+8 < len(data) {
			h = ecb(single, h)
		}
	}
	return ecb(tdes(key), h)
}
