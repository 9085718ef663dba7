package secrets

import (
	"context"
	"errors"
	"fmt"
)

// LookAt says whether Open would work, and uses nothing up: a kept token is
// looked up, or else what the wrapping token wraps. first is true if there is
// no good token yet, so that only the next start will log in.
func LookAt(ctx context.Context, c Config, o Options) (first bool, err error) {
	v, err := newVault(c, o)
	if err != nil {
		return false, err
	}
	defer v.closeConnections()
	err = v.takeUpToken(ctx)
	if !missing(err) && !errors.Is(err, errTokenEnded) {
		return false, err
	}
	token, err := v.readWrapped()
	if missing(err) || errors.Is(err, errNoWrappedFile) {
		return false, fmt.Errorf("%w: there is neither a good token nor a wrapped_secret_id file: %s", ErrNeedsSecretID, v.issueHint())
	}
	if err != nil {
		return false, err
	}
	defer token.Wipe()
	return true, v.checkWrapped(ctx, token)
}
