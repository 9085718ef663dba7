// Package software executes plans in memory with crypto/des. It is the second
// opinion in tests, in conformance runs and in benchmarks; a service never
// uses it, because here the issuer key is in clear.
package software

import (
	"crypto/cipher"
	"crypto/des" //nolint:gosec // EMV cryptograms of these profiles are DES based
	"crypto/subtle"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
)

// nodes is the root key and all derived ones, by cryptogram.KeyNode.
type nodes [1 + cryptogram.MaxDerivations][16]byte

// Execute runs p under the issuer key and overwrites o. It takes scratch plans
// too: see cryptogram.Validate.
func Execute(key [16]byte, p *cryptogram.Plan, o *cryptogram.Outcome) error {
	*o = cryptogram.Outcome{}
	if err := cryptogram.Validate(p, true); err != nil {
		return fmt.Errorf("executing plan: %w", err)
	}
	var n nodes
	n[cryptogram.RootKey] = key
	for i := range p.Derivations[:p.NumDerivations] {
		d := &p.Derivations[i]
		derive(&n[d.Parent], &d.Input, &n[i+1])
	}
	for i := range p.Steps[:p.NumSteps] {
		s := &p.Steps[i]
		if s.Requires != 0 && o.Steps[s.Requires-1].Status != cryptogram.Matched {
			continue
		}
		result := compute(s, &n)
		conclude(s, &result, &o.Steps[i])
	}
	return nil
}

// CheckValue is the first 3 bytes of DES3(key)[0^8] for a key of 16 or 24
// bytes. For any other length it is zero.
func CheckValue(key []byte) (cv [3]byte) {
	var block [8]byte
	switch len(key) {
	case 16:
		tripleDES((*[16]byte)(key)).Encrypt(block[:], block[:])
	case 24:
		mustCipher(des.NewTripleDESCipher(key)).Encrypt(block[:], block[:])
	default:
		return cv
	}
	return [3]byte(block[:3])
}

func derive(parent, in, out *[16]byte) {
	c := tripleDES(parent)
	c.Encrypt(out[:8], in[:8])
	c.Encrypt(out[8:], in[8:])
}

func compute(s *cryptogram.Step, n *nodes) (result [cryptogram.BlockBytes]byte) {
	data := s.Data[:s.DataBytes]
	if s.Op == cryptogram.RetailMAC {
		// Left is KL‖KL, under which triple DES is single DES.
		left := mustCipher(des.NewCipher(n[s.Left][:8]))
		for ; len(data) > cryptogram.BlockBytes; data = data[cryptogram.BlockBytes:] {
			subtle.XORBytes(result[:], result[:], data)
			left.Encrypt(result[:], result[:])
		}
	}
	subtle.XORBytes(result[:], result[:], data)
	tripleDES(&n[s.Key]).Encrypt(result[:], result[:])
	return result
}

// conclude compares or reveals a result. It is the only place that compares,
// in constant time, and a compared result goes nowhere else.
func conclude(s *cryptogram.Step, result *[cryptogram.BlockBytes]byte, o *cryptogram.StepOutcome) {
	if n := s.CompareBytes; n > 0 {
		o.Status = cryptogram.Mismatched
		if subtle.ConstantTimeCompare(result[:n], s.Expected[:n]) == 1 {
			o.Status = cryptogram.Matched
		}
		return
	}
	o.Status = cryptogram.Produced
	copy(o.Bytes[:s.ProduceBytes], result[:])
}

// tripleDES is two-key triple DES: K1, K2, K1.
func tripleDES(key *[16]byte) cipher.Block {
	var k [24]byte
	copy(k[:16], key[:])
	copy(k[16:], key[:8])
	return mustCipher(des.NewTripleDESCipher(k[:]))
}

// mustCipher drops an error that only a wrong key length can cause.
func mustCipher(c cipher.Block, err error) cipher.Block {
	if err != nil {
		panic(err)
	}
	return c
}
