// Package software executes plans in memory with crypto/des. It is the second
// opinion in tests, in conformance runs and in benchmarks; a service never
// uses it, because here the issuer key is in clear.
package software

import (
	"crypto/cipher"
	"crypto/des" // EMV cryptograms of these profiles are DES based
	"crypto/subtle"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
)

// A node is the root key or a derived one. Its cipher is made at first use:
// the key schedule costs more than the few blocks under it.
type node struct {
	key    [16]byte
	cipher cipher.Block
}

// nodes are indexed by cryptogram.KeyNode.
type nodes [1 + cryptogram.MaxDerivations]node

// Execute runs p under the issuer key and overwrites o. It takes scratch plans
// too: see cryptogram.Validate.
func Execute(key [16]byte, p *cryptogram.Plan, o *cryptogram.Outcome) error {
	*o = cryptogram.Outcome{}
	if err := cryptogram.Validate(p, true); err != nil {
		return fmt.Errorf("executing plan: %w", err)
	}
	var n nodes
	n[cryptogram.RootKey].key = key
	for i := range p.Derivations[:p.NumDerivations] {
		d := &p.Derivations[i]
		n[d.Parent].derive(&d.Input, &n[i+1].key)
	}
	for i := range p.Steps[:p.NumSteps] {
		s := &p.Steps[i]
		if s.Requires != 0 && o.Steps[s.Requires-1].Status != cryptogram.Matched {
			continue
		}
		result := n.compute(s)
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

func (n *node) tripleDES() cipher.Block {
	if n.cipher == nil {
		n.cipher = tripleDES(&n.key)
	}
	return n.cipher
}

func (n *node) derive(in, out *[16]byte) {
	c := n.tripleDES()
	c.Encrypt(out[:8], in[:8])
	if [8]byte(in[8:]) == [8]byte(in[:8]) {
		copy(out[8:], out[:8]) // KL‖KL
		return
	}
	c.Encrypt(out[8:], in[8:])
}

func (n *nodes) compute(s *cryptogram.Step) (result [cryptogram.BlockBytes]byte) {
	data := s.Data[:s.DataBytes]
	if s.Op == cryptogram.RetailMAC && len(data) > cryptogram.BlockBytes {
		// Left is KL‖KL, under which triple DES is single DES.
		left := mustCipher(des.NewCipher(n[s.Left].key[:8]))
		for ; len(data) > cryptogram.BlockBytes; data = data[cryptogram.BlockBytes:] {
			subtle.XORBytes(result[:], result[:], data)
			left.Encrypt(result[:], result[:])
		}
	}
	subtle.XORBytes(result[:], result[:], data)
	n[s.Key].tripleDES().Encrypt(result[:], result[:])
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
