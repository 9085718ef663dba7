package pkcs11

import (
	"math/rand/v2"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// randomRequest makes a request of a profile: random data, a random IAD of
// the right layout, a random response or none.
func randomRequest(tb testing.TB, r *rand.Rand, p *cryptogram.Profile) cryptogram.Request {
	tb.Helper()
	digits := make([]byte, cryptogram.MinPANDigits+r.IntN(cryptogram.MaxPANDigits-cryptogram.MinPANDigits+1))
	for i := range digits {
		digits[i] = '0' + byte(r.IntN(10))
	}
	req := cryptogram.Request{
		Profile:   p.ID,
		KeyOption: p.Options[r.IntN(len(p.Options))],
		PAN:       must1(cryptogram.PANFromASCII(digits))(tb),
		PSN:       must1(cryptogram.PSNFromBCD(byte(r.IntN(10)<<4 | r.IntN(10))))(tb),
	}
	d := &req.Data
	for _, field := range [][]byte{
		d.AmountAuthorised[:], d.AmountOther[:], d.TerminalCountry[:], d.TVR[:], d.Currency[:],
		d.Date[:], d.Type[:], d.UN[:], d.AIP[:], d.ATC[:], req.Cryptogram[:],
	} {
		fill(r, field)
	}
	req.IAD = randomIAD(r, p)
	if p.CVRFrom == cryptogram.CVRFromCaller {
		req.CVR.Len = p.CVRBytes
		fill(r, req.CVR.Bytes[:p.CVRBytes])
	}
	if r.IntN(3) > 0 {
		req.Response = randomResponse(r, p)
	}
	return req
}

func randomIAD(r *rand.Rand, p *cryptogram.Profile) (iad cryptogram.IAD) {
	size, fixed := 0, map[int]byte{}
	switch p.Scheme {
	case cryptogram.SchemeVisa:
		size, fixed = 7+r.IntN(26), map[int]byte{0: 0x06, 2: p.CVN, 3: 0x03}
		if p.CVN>>4 == 2 {
			size, fixed = 32, map[int]byte{0: 0x1F, 1: p.CVN}
		}
	case cryptogram.SchemeMastercard:
		size, fixed = []int{18, 20, 26, 28}[r.IntN(4)], map[int]byte{1: p.CVN}
	case cryptogram.SchemeCCD:
		size, fixed = 32, map[int]byte{0: 0x0F, 1: p.CVN, 16: 0x0F}
	case cryptogram.SchemeInterac:
		size = 1 + r.IntN(32)
	case cryptogram.SchemePBOC:
		return iad
	}
	iad.Len = uint8(size)
	fill(r, iad.Bytes[:size])
	for at, b := range fixed {
		iad.Bytes[at] = b
	}
	return iad
}

func randomResponse(r *rand.Rand, p *cryptogram.Profile) (resp cryptogram.Response) {
	if p.ARPC == cryptogram.ARPCMethod1 {
		resp.Kind = cryptogram.ResponseCode
		fill(r, resp.ARC[:])
		return resp
	}
	resp.Kind = cryptogram.CardStatusUpdate
	fill(r, resp.CSU[:])
	resp.PADLen = uint8(r.IntN(9))
	fill(r, resp.PAD[:resp.PADLen])
	return resp
}

func fill(r *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(r.Uint32())
	}
}

// makeRight replaces the cryptogram of a request with the right one, computed
// by software under the key.
func makeRight(tb testing.TB, key [16]byte, req *cryptogram.Request) {
	tb.Helper()
	var p cryptogram.Plan
	must(tb, cryptogram.BuildPlan(req, &p))
	p.NumSteps = 1
	p.Steps[0].CompareBytes, p.Steps[0].ProduceBytes = 0, 8
	var o cryptogram.Outcome
	must(tb, software.Execute(key, &p, &o))
	req.Cryptogram = o.Steps[0].Bytes
}
