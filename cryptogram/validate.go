package cryptogram

import (
	"errors"
	"fmt"
)

// ErrPlan is for a plan that breaks a rule of its structure. The text names
// the rule and the step, never the data.
var ErrPlan = errors.New("plan is malformed")

// Validate checks the structure of a plan before it is executed, whoever made
// it: counts and lengths, parents before children, every key used for its one
// purpose, MAC keys with their own left half, results only after a comparison.
//
// allowRootCompute is for conformance runs on a scratch token only: there
// RootKey may stand for the root imported for computing (and as Left for its
// KL‖KL twin), and a step may produce without a comparison. A data worker
// passes false.
func Validate(p *Plan, allowRootCompute bool) error {
	if p.NumDerivations > MaxDerivations || p.NumSteps == 0 || p.NumSteps > MaxSteps {
		return fmt.Errorf("%w: number of derivations or steps", ErrPlan)
	}
	for i := range p.Derivations[:p.NumDerivations] {
		if problem := p.checkDerivation(i); problem != "" {
			return fmt.Errorf("%w: derivation %d: %s", ErrPlan, i+1, problem)
		}
	}
	for i := range p.Steps[:p.NumSteps] {
		if problem := p.checkStep(i, allowRootCompute); problem != "" {
			return fmt.Errorf("%w: step %d: %s", ErrPlan, i+1, problem)
		}
	}
	return nil
}

func (p *Plan) checkDerivation(i int) (problem string) {
	d := &p.Derivations[i]
	switch {
	case d.Purpose != ForDeriving && d.Purpose != ForComputing:
		return "unknown purpose"
	case int(d.Parent) > i:
		return "parent is not derived before"
	case d.Parent != RootKey && p.Derivations[d.Parent-1].Purpose != ForDeriving:
		return "parent is not for deriving"
	}
	return ""
}

func (p *Plan) checkStep(i int, scratch bool) (problem string) {
	s := &p.Steps[i]
	switch {
	case s.DataBytes == 0 || s.DataBytes > MaxStepBytes || s.DataBytes%BlockBytes != 0:
		return "data is not a whole number of blocks"
	case s.CompareBytes > BlockBytes || s.ProduceBytes > BlockBytes:
		return "result is longer than a block"
	case (s.CompareBytes > 0) == (s.ProduceBytes > 0):
		return "must either compare or produce"
	case int(s.Requires) > i:
		return "requires a step that is not before it"
	case s.Requires != 0 && p.Steps[s.Requires-1].CompareBytes == 0:
		return "requires a step that compares nothing"
	case s.ProduceBytes > 0 && s.Requires == 0 && !scratch:
		return "produces without a comparison"
	case !p.computes(s.Key, scratch):
		return "key is not for computing"
	}
	switch s.Op {
	case EncryptBlock:
		if s.DataBytes != BlockBytes || s.Left != RootKey {
			return "enciphers one block under one key"
		}
		return ""
	case RetailMAC:
		return p.checkLeft(s, scratch)
	}
	return "unknown operation"
}

// checkLeft makes sure that Left is the KL‖KL of Key: a MAC under two
// unrelated keys would be some other function of the issuer key.
func (p *Plan) checkLeft(s *Step, scratch bool) (problem string) {
	if s.Key == RootKey || s.Left == RootKey {
		if s.Key != s.Left {
			return "left half belongs to another key"
		}
		return ""
	}
	if !p.computes(s.Left, scratch) {
		return "left half is not for computing"
	}
	key, left := &p.Derivations[s.Key-1], &p.Derivations[s.Left-1]
	if left.Parent != key.Parent || left.Input != LeftTwin(key.Input) {
		return "left half belongs to another key"
	}
	return ""
}

func (p *Plan) computes(k KeyNode, scratch bool) bool {
	if k == RootKey {
		return scratch
	}
	return k <= KeyNode(p.NumDerivations) && p.Derivations[k-1].Purpose == ForComputing
}
