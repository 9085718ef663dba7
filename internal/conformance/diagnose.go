package conformance

import (
	"bytes"
	"encoding/binary"

	"github.com/tapseal/tapseal/cryptogram"
)

// diagnose names the first wrong step after a comparison failed. Each key of
// the chain is proved in the token against the software executor, then the MAC
// input against padding written a second time here. When all of that agrees,
// the computation or the vector's value itself is what is wrong. Values stay
// where they are: the token only compares, and nothing is printed.
func (r *Runner) diagnose(w *work, failed *check) error {
	for n := range len(w.chain.steps) + 1 {
		step := stepImport
		if n > 0 {
			step = w.chain.steps[n-1].name
		}
		agree, err := r.agrees(w.chain, w.chain.checkValuePlan(n, make([]byte, 8)))
		if err != nil {
			return err
		}
		if !agree {
			return &wrongStep{step, "the token and the software executor derive different keys"}
		}
	}
	if !w.messageIsPadded(failed.plan) {
		return &wrongStep{stepMACInput, "the message is not padded as " + w.padding + " says"}
	}
	agree, err := r.agrees(w.chain, failed.plan)
	if err != nil {
		return err
	}
	if !agree {
		return &wrongStep{failed.step, "the token and the software executor compute different values"}
	}
	return &wrongStep{failed.step, failed.field + " is not what token and software compute"}
}

// agrees computes the only step of a plan in software and lets the token
// compare it.
func (r *Runner) agrees(chain *keyChain, p *cryptogram.Plan) (bool, error) {
	want, err := softwareValue(chain, p)
	if err != nil {
		return false, &wrongStep{stepToken, "computing in software: " + err.Error()}
	}
	q := *p
	expect(&q.Steps[0], want[:])
	status, err := r.status(chain, &q)
	return status == cryptogram.Matched, err
}

// messageIsPadded pads the message again, in the plainest way, and compares.
// Checks without a MAC have no message.
func (w *work) messageIsPadded(p *cryptogram.Plan) bool {
	step := &p.Steps[0]
	if step.Op != cryptogram.RetailMAC {
		return true
	}
	want := bytes.Clone(w.message)
	switch w.padding {
	case "iso9797_m2":
		want = append(want, 0x80)
	case "iso9797_m3":
		want = append(binary.BigEndian.AppendUint64(nil, uint64(len(w.message))*8), w.message...)
		if len(w.message) == 0 {
			want = append(want, make([]byte, cryptogram.BlockBytes)...)
		}
	}
	for w.padding != "none" && (len(want) == 0 || len(want)%cryptogram.BlockBytes != 0) {
		want = append(want, 0)
	}
	return bytes.Equal(want, step.Data[:step.DataBytes])
}
