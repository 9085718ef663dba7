package conformance

import (
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/scratch"
)

// A ScratchToken is the executor of a scratch process: each plan's root key is
// imported for it, sensitive and not extractable, and destroyed after it.
type ScratchToken struct{ Client *scratch.Client }

// Execute runs one plan. Errors hold no key and no message.
func (t ScratchToken) Execute(root [16]byte, p *cryptogram.Plan) (cryptogram.Outcome, error) {
	reply, err := t.Client.Do(scratch.Request{Root: root, Plan: *p})
	var one *scratch.RequestError
	if err != nil && !errors.As(err, &one) {
		return reply.Outcome, fmt.Errorf("%w: %w", ErrTokenGone, err)
	}
	return reply.Outcome, err
}
