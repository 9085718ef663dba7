package conformance

import (
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// Work is what one vector comes to: checks in the order of the computation.
// Without a chain everything was answered in software already.
type work struct {
	chain  *keyChain
	checks []check
	// software checks: their results are known.
	values []value
	// padding of the MAC input, for finding the first wrong step.
	padding string
	message []byte
}

// A check is one comparison in the token.
type check struct {
	step  string
	field string
	plan  *cryptogram.Plan
	// mismatch: the vector says that the comparison must fail.
	mismatch bool
}

// A value is one answer of the software.
type value struct {
	field string
	equal bool
}

func (w *work) assert(field string, equal bool) {
	w.values = append(w.values, value{field, equal})
}

func (w *work) compare(step, field string, plan *cryptogram.Plan) {
	w.checks = append(w.checks, check{step: step, field: field, plan: plan})
}

// compareKey compares a key in the token with one in a vector through all
// eight bytes of the enciphered zero block, so that parity has no effect.
func (w *work) compareKey(f fields, name, step string, n int) error {
	var key [16]byte
	if err := f.fixed(name, key[:]); err != nil {
		return err
	}
	want, err := keyCheckValue(&key)
	if err != nil {
		return badField(f.prefix+name, "computing its check value: %v", err)
	}
	w.compare(step, f.prefix+name, w.chain.checkValuePlan(n, want[:]))
	return nil
}

// compareCheckValue compares a printed check value, which may be a prefix.
func (w *work) compareCheckValue(f fields, name, step string, n int) error {
	want, err := f.bytes(name)
	if err != nil {
		return err
	}
	if len(want) < 1 || len(want) > cryptogram.BlockBytes {
		return badField(f.prefix+name, "want 1 to 8 bytes, got %d", len(want))
	}
	w.compare(step, f.prefix+name, w.chain.checkValuePlan(n, want))
	return nil
}

// intermediates asserts the keys that a vector prints beside its answer.
func (w *work) intermediates(v *vector) error {
	for _, f := range v.sets() {
		if f.has("icc_mk") {
			n, ok := w.chain.cardKeyAt()
			if !ok {
				return badField(f.prefix+"icc_mk", "the vector has no card key")
			}
			if err := w.compareKey(f, "icc_mk", stepCardKey, n); err != nil {
				return err
			}
		}
	}
	for _, f := range v.sets() {
		if f.has("session_key") {
			if err := w.compareKey(f, "session_key", stepSession, len(w.chain.steps)); err != nil {
				return err
			}
		}
	}
	return nil
}

// keyCheckValue is DES3(key)[0^8] in software, all eight bytes.
func keyCheckValue(key *[16]byte) ([8]byte, error) {
	chain := keyChain{root: *key}
	return softwareValue(&chain, chain.checkValuePlan(0, make([]byte, 1)))
}

// softwareValue is what the only step of a plan computes, in software.
func softwareValue(chain *keyChain, plan *cryptogram.Plan) ([8]byte, error) {
	var out cryptogram.Outcome
	if err := software.Execute(chain.root, revealing(plan), &out); err != nil {
		return [8]byte{}, err
	}
	return out.Steps[0].Bytes, nil
}
