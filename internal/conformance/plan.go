package conformance

import "github.com/tapseal/tapseal/cryptogram"

// newPlan makes a plan whose only step still has to be filled in: the
// derivations of the first n steps of the chain, the last one for computing.
// For a MAC the last one is derived a second time as KL‖KL.
func (c *keyChain) newPlan(n int, op cryptogram.Op) (*cryptogram.Plan, *cryptogram.Step) {
	p := &cryptogram.Plan{NumSteps: 1}
	step := &p.Steps[0]
	step.Op = op
	parent := cryptogram.RootKey
	derive := func(purpose cryptogram.Purpose, input [16]byte) cryptogram.KeyNode {
		p.Derivations[p.NumDerivations] = cryptogram.Derivation{Parent: parent, Purpose: purpose, Input: input}
		p.NumDerivations++
		return cryptogram.KeyNode(p.NumDerivations)
	}
	for i, s := range c.steps[:n] {
		if i < n-1 {
			parent = derive(cryptogram.ForDeriving, s.input)
			continue
		}
		step.Key = derive(cryptogram.ForComputing, s.input)
		if op == cryptogram.RetailMAC {
			step.Left = derive(cryptogram.ForComputing, cryptogram.LeftTwin(s.input))
		}
	}
	return p, step
}

// checkValuePlan compares DES3(K)[0^8] of the key after the first n steps with
// want, 1 to 8 bytes.
func (c *keyChain) checkValuePlan(n int, want []byte) *cryptogram.Plan {
	p, step := c.newPlan(n, cryptogram.EncryptBlock)
	step.DataBytes = cryptogram.BlockBytes
	expect(step, want)
	return p
}

// macPlan compares the MAC over padded data under the last key of the chain.
func (c *keyChain) macPlan(padded, want []byte) *cryptogram.Plan {
	p, step := c.newPlan(len(c.steps), cryptogram.RetailMAC)
	step.DataBytes = uint16(copy(step.Data[:], padded))
	expect(step, want)
	return p
}

// blockPlan compares one enciphered block under the last key of the chain.
func (c *keyChain) blockPlan(block [8]byte, want []byte) *cryptogram.Plan {
	p, step := c.newPlan(len(c.steps), cryptogram.EncryptBlock)
	step.DataBytes = uint16(copy(step.Data[:], block[:]))
	expect(step, want)
	return p
}

func expect(step *cryptogram.Step, want []byte) {
	step.CompareBytes = uint8(copy(step.Expected[:], want))
}

// revealing is the same plan with its step producing all eight bytes. Only the
// software executor gets one: from the token nothing but comparisons comes.
func revealing(p *cryptogram.Plan) *cryptogram.Plan {
	q := *p
	q.Steps[0].CompareBytes = 0
	q.Steps[0].Expected = [8]byte{}
	q.Steps[0].ProduceBytes = cryptogram.BlockBytes
	return &q
}
