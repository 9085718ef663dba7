package cryptogram

// Limits of a plan. They bound what one request can make a token do.
const (
	MaxDerivations = 8   // derived keys of one plan
	MaxSteps       = 4   // computations of one plan
	MaxStepBytes   = 256 // message of one step after padding, a multiple of BlockBytes
	BlockBytes     = 8   // DES block
)

// KeyNode names a key inside one plan: RootKey is the key that the request
// refers to, n > 0 is the key that Derivations[n-1] makes. A node is only an
// index: no handle, label or attribute can be expressed.
type KeyNode uint8

// RootKey is the issuer key (IMK) that the request names.
const RootKey KeyNode = 0

// Purpose is the single thing a derived key may do. A card key that is needed
// for deriving and for computing is derived twice, so that no key object has
// both rights. The zero value is invalid.
type Purpose uint8

// Purposes of a derived key.
const (
	ForDeriving  Purpose = 1 // base of further derivations, cannot encipher
	ForComputing Purpose = 2 // enciphers blocks, cannot derive
)

// A Derivation makes the two-key TDES key DES3(Parent)[Input[0:8]] ‖
// DES3(Parent)[Input[8:16]] inside the token (PKCS#11:
// CKM_DES3_ECB_ENCRYPT_DATA). The input is public data, never key material.
type Derivation struct {
	Parent  KeyNode // RootKey or an earlier derivation
	Purpose Purpose
	Input   [16]byte
}

// Op is a computation under a derived key. The zero value is invalid.
type Op uint8

// Operations.
const (
	// RetailMAC is ISO/IEC 9797-1 MAC algorithm 3 with DES over Data, which
	// is already padded: single-DES CBC under the left half of Key for all
	// blocks but the last, two-key TDES of the last one. Left names the key
	// KL‖KL, because tokens have no single DES (docs/decisions/0003).
	RetailMAC Op = 1
	// EncryptBlock is DES3(Key)[Data], Data being one block.
	EncryptBlock Op = 2
)

// StepRef names an earlier step: 0 is none, n is Steps[n-1].
type StepRef uint8

// A Step computes eight bytes and either compares them (CompareBytes > 0), in
// which case the computed value is never revealed, or produces the leftmost
// ProduceBytes of them. Exactly one of the two is set.
type Step struct {
	Op           Op
	Key          KeyNode // a ForComputing derivation
	Left         KeyNode // RetailMAC: the derivation of KL‖KL
	Requires     StepRef // this step runs only if that comparison matched
	CompareBytes uint8   // 0, or 1…8: compare this many leftmost bytes with Expected
	ProduceBytes uint8   // 0, or 1…8
	DataBytes    uint16  // used bytes of Data
	Expected     [BlockBytes]byte
	Data         [MaxStepBytes]byte
}

// A Plan is what the token must do for one request, as plain data without
// pointers: it is executed in one crossing into the PKCS#11 module, or by the
// software executor in tests. It holds cardholder data: never log one.
type Plan struct {
	NumDerivations uint8
	NumSteps       uint8
	Derivations    [MaxDerivations]Derivation
	Steps          [MaxSteps]Step
}

// StepStatus says what became of a step. The zero value is "did not run".
type StepStatus uint8

// What became of a step.
const (
	NotRun     StepStatus = 0
	Matched    StepStatus = 1
	Mismatched StepStatus = 2
	Produced   StepStatus = 3
)

// StepOutcome is the result of one step. Bytes is set only for Produced, its
// length being the step's ProduceBytes.
type StepOutcome struct {
	Status StepStatus
	Bytes  [BlockBytes]byte
}

// An Outcome is the result of a plan: one entry for each step, in order.
type Outcome struct {
	Steps [MaxSteps]StepOutcome
}

// Reset makes the plan empty without touching the message buffers: only the
// bytes below the counts are ever read.
func (p *Plan) Reset() { p.NumDerivations, p.NumSteps = 0, 0 }
