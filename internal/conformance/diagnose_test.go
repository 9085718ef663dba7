package conformance

import (
	"strings"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
)

// faulty is a token that goes wrong at one place: no real token can be made to.
type faulty struct {
	spoil func(root *[16]byte, p *cryptogram.Plan)
}

func (f faulty) Execute(root [16]byte, p *cryptogram.Plan) (cryptogram.Outcome, error) {
	q := *p
	f.spoil(&root, &q)
	return inSoftware{}.Execute(root, &q)
}

// spoilInput changes one bit of the input of the derivation at a depth, 1 for
// children of the root, in all its copies (also in the KL‖KL one).
func spoilInput(p *cryptogram.Plan, depth int) {
	depths := make([]int, 1+cryptogram.MaxDerivations)
	for i := range p.Derivations[:p.NumDerivations] {
		d := &p.Derivations[i]
		depths[i+1] = depths[d.Parent] + 1
		if depths[i+1] == depth {
			d.Input[7] ^= 1
			if d.Input[15] == d.Input[7]^1 { // KL‖KL stays that
				d.Input[15] ^= 1
			}
		}
	}
}

func TestFirstWrongStep(t *testing.T) {
	tests := map[string]struct {
		vector  change
		spoil   func(root *[16]byte, p *cryptogram.Plan)
		step    string
		problem string
	}{
		"import": {goodAC(), func(root *[16]byte, _ *cryptogram.Plan) { root[0] ^= 2 }, stepImport, "different keys"},
		"card key": {
			goodAC(), func(_ *[16]byte, p *cryptogram.Plan) { spoilInput(p, 1) }, stepCardKey, "different keys",
		},
		"session key": {
			goodAC(), func(_ *[16]byte, p *cryptogram.Plan) { spoilInput(p, 2) }, stepSession, "different keys",
		},
		"session key of a response": {
			goodARPC2(), func(_ *[16]byte, p *cryptogram.Plan) { spoilInput(p, 2) }, stepSession, "different keys",
		},
		"card key of a session key": {
			goodSession(), func(_ *[16]byte, p *cryptogram.Plan) { spoilInput(p, 1) }, stepCardKey, "different keys",
		},
		"MAC": {
			goodAC(), func(_ *[16]byte, p *cryptogram.Plan) {
				if p.Steps[0].Op == cryptogram.RetailMAC {
					p.Steps[0].Data[0] ^= 1
				}
			}, stepCrypto, "compute different values",
		},
		"response": {
			goodARPC2(), func(_ *[16]byte, p *cryptogram.Plan) {
				if p.Steps[0].Op == cryptogram.RetailMAC {
					p.Steps[0].Data[0] ^= 1
				}
			}, stepResponse, "compute different values",
		},
		"vector": {
			with(goodAC(), change{"expected": change{"ac": "7A788EA6B8A3E732"}}),
			func(*[16]byte, *cryptogram.Plan) {}, stepCrypto, "not what token and software compute",
		},
		"own_computed of the vector": {
			with(goodAC(), change{"own_computed": change{"session_key": testIMK}}),
			func(*[16]byte, *cryptogram.Plan) {}, stepSession, "own_computed.session_key is not",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			res := runOne(t, faulty{tt.spoil}, tt.vector)
			if res.Status != Failed || res.Step != tt.step || !strings.Contains(res.Problem, tt.problem) {
				t.Errorf("%s %q %q, want failed %q with %q", res.Status, res.Step, res.Problem, tt.step, tt.problem)
			}
		})
	}
}

// TestWrongPaddingIsNamed: the second writing of the padding in this package
// finds a message that was padded otherwise.
func TestWrongPaddingIsNamed(t *testing.T) {
	file := oneVector(t, goodAC())
	v, err := identify(0, file.vectors[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := v.readExpected(); err != nil {
		t.Fatal(err)
	}
	w, err := prepareCryptogram(&v)
	if err != nil {
		t.Fatal(err)
	}
	c := &w.checks[0]
	c.plan.Steps[0].Data[c.plan.Steps[0].DataBytes-1] ^= 1
	got := NewRunner(inSoftware{}).runCheck(w, c)
	if got == nil || !strings.HasPrefix(got.Error(), stepMACInput) {
		t.Errorf("%v, want %s", got, stepMACInput)
	}
	for _, padding := range paddingNames() {
		for n := range 40 {
			w := &work{padding: padding, message: make([]byte, n)}
			for i := range w.message {
				w.message[i] = byte(i + 1)
			}
			padded := padMessage(w.message, padding, cryptogram.BlockBytes)
			if !w.messageIsPadded((&keyChain{}).macPlan(padded, nil)) {
				t.Errorf("%s of %d bytes: the two paddings differ", padding, n)
			}
		}
	}
}
