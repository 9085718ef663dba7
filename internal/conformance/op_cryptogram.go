package conformance

import (
	"slices"

	"github.com/tapseal/tapseal/cryptogram"
)

// prepareCryptogram: the application cryptogram, compared in the token at its
// full length.
func prepareCryptogram(v *vector) (*work, error) {
	w, padded, err := v.macWork()
	if err != nil {
		return nil, err
	}
	for _, f := range v.sets() {
		if !f.has("ac") {
			continue
		}
		var want [8]byte
		if err := f.fixed("ac", want[:]); err != nil {
			return nil, err
		}
		w.compare(stepCrypto, f.prefix+"ac", w.chain.macPlan(padded, want[:]))
	}
	return w, nil
}

// prepareVerification: a given cryptogram is right or wrong. One of another
// length than eight bytes is wrong whatever its bytes are: a prefix that is
// accepted would be guessed sooner.
func prepareVerification(v *vector) (*work, error) {
	w, padded, err := v.macWork()
	if err != nil {
		return nil, err
	}
	arqc, err := v.in.bytes("arqc")
	if err != nil {
		return nil, err
	}
	for _, f := range v.sets() {
		if !f.has("valid") {
			continue
		}
		valid, err := f.truth("valid")
		if err != nil {
			return nil, err
		}
		if len(arqc) != cryptogram.BlockBytes {
			w.assert(f.prefix+"valid", !valid)
			continue
		}
		w.checks = append(w.checks, check{stepCrypto, f.prefix + "valid", w.chain.macPlan(padded, arqc), !valid})
	}
	return w, nil
}

// macWork reads key chain and message.
func (v *vector) macWork() (*work, []byte, error) {
	chain, err := v.readChain(true, "_ac")
	if err != nil {
		return nil, nil, err
	}
	w := &work{chain: chain}
	if w.message, err = v.in.bytes("arqc_data"); err != nil {
		return nil, nil, err
	}
	if w.padding, err = v.in.oneOf("padding", paddingNames()...); err != nil {
		return nil, nil, err
	}
	padded := padMessage(w.message, w.padding, cryptogram.BlockBytes)
	switch {
	case len(padded) == 0:
		return nil, nil, badField("arqc_data", "empty")
	case len(padded)%cryptogram.BlockBytes != 0:
		return nil, nil, badField("arqc_data", "without padding want a multiple of 8 bytes, got %d", len(padded))
	case len(padded) > cryptogram.MaxStepBytes:
		return nil, nil, badField("arqc_data", "want at most %d bytes after padding, got %d",
			cryptogram.MaxStepBytes, len(padded))
	}
	return w, padded, w.intermediates(v)
}

// prepareResponse1: DES3(K)[ARQC ⊕ (ARC ‖ 0^6)].
func prepareResponse1(v *vector) (*work, error) {
	w, arqc, err := v.responseWork()
	if err != nil {
		return nil, err
	}
	var arc [2]byte
	if err := v.in.fixed("arc", arc[:]); err != nil {
		return nil, err
	}
	block := arqc
	block[0] ^= arc[0]
	block[1] ^= arc[1]
	return w, w.responses(v, 8, func(want []byte) *cryptogram.Plan { return w.chain.blockPlan(block, want) })
}

// prepareResponse2: the leftmost four bytes of the MAC over ARQC ‖ CSU ‖
// proprietary authentication data.
func prepareResponse2(v *vector) (*work, error) {
	const mostPAD = 8
	w, arqc, err := v.responseWork()
	if err != nil {
		return nil, err
	}
	var csu [4]byte
	if err := v.in.fixed("csu", csu[:]); err != nil {
		return nil, err
	}
	var pad []byte
	if v.in.has("prop_auth_data") {
		if pad, err = v.in.bytes("prop_auth_data"); err != nil {
			return nil, err
		}
		if len(pad) > mostPAD {
			return nil, badField("prop_auth_data", "want at most 8 bytes, got %d", len(pad))
		}
	}
	w.message = slices.Concat(arqc[:], csu[:], pad)
	w.padding = "iso9797_m2"
	padded := padMessage(w.message, w.padding, cryptogram.BlockBytes)
	return w, w.responses(v, 4, func(want []byte) *cryptogram.Plan { return w.chain.macPlan(padded, want) })
}

func (v *vector) responseWork() (*work, [8]byte, error) {
	var arqc [8]byte
	chain, err := v.readChain(true, "_ac")
	if err != nil {
		return nil, arqc, err
	}
	w := &work{chain: chain}
	if err := v.in.fixed("arqc", arqc[:]); err != nil {
		return nil, arqc, err
	}
	return w, arqc, w.intermediates(v)
}

func (w *work) responses(v *vector, bytes int, plan func(want []byte) *cryptogram.Plan) error {
	for _, f := range v.sets() {
		if !f.has("arpc") {
			continue
		}
		want := make([]byte, bytes)
		if err := f.fixed("arpc", want); err != nil {
			return err
		}
		w.compare(stepResponse, f.prefix+"arpc", plan(want))
	}
	return nil
}
