package cryptogram

// Fixed public data of the canary. Never change it: recorded canaries are
// compared for the life of a key.
const (
	canaryInput = "tapseal canary 1"
	canaryBlock = "tapseal!"
)

// CanaryPlan writes into p the known answer that proves a key before its first
// use in a process: derive a child from a fixed input, encipher a fixed block,
// compare all 8 bytes with the value recorded at the key's birth. It also
// proves that the token can derive and compute at all.
func CanaryPlan(expected [8]byte, p *Plan) {
	p.Reset()
	s := canaryStep(p)
	s.CompareBytes, s.Expected = BlockBytes, expected
}

// CanaryBirthPlan writes into p the plan that produces the value for
// CanaryPlan. It reveals a result without a comparison, so it is a plan for
// the process that makes keys: Validate refuses it in a data worker.
func CanaryBirthPlan(p *Plan) {
	p.Reset()
	canaryStep(p).ProduceBytes = BlockBytes
}

func canaryStep(p *Plan) *Step {
	s := p.step(EncryptBlock, p.derive(RootKey, ForComputing, [16]byte([]byte(canaryInput))), RootKey)
	s.DataBytes = uint16(copy(s.Data[:], canaryBlock))
	return s
}
