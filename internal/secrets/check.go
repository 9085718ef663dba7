package secrets

import (
	"context"
	"errors"
	"fmt"
)

// Check says whether the service could start, and changes nothing: the wrapped
// secret_id is looked at and not used up, no token is renewed. With a token
// from an earlier login the PIN is read as well, if pin is not nil.
func Check(ctx context.Context, c Config, pin *PINConfig, o Options) error {
	if pin != nil {
		if err := pin.Validate(); err != nil {
			return err
		}
	}
	v, err := newVault(c, o)
	if err != nil {
		return err
	}
	defer v.closeConnections()
	err = v.takeUpToken(ctx)
	switch {
	case err == nil && pin != nil:
		return v.checkPIN(ctx, *pin)
	case missing(err), errors.Is(err, errTokenEnded):
		err = v.checkSecretID(ctx, err)
	}
	if err != nil {
		return fmt.Errorf("asking vault at %s as role %q: %w", c.Address, c.Role, err)
	}
	return nil
}

// checkSecretID is useSecretID up to the point where it would be used.
func (v *Vault) checkSecretID(ctx context.Context, why error) error {
	token, err := v.readWrapped()
	if missing(err) || errors.Is(err, errNoWrappedFile) {
		return v.nothingToStartWith(why)
	}
	if err != nil {
		return err
	}
	defer token.Wipe()
	return v.checkWrapped(ctx, token)
}

func (v *Vault) checkPIN(ctx context.Context, c PINConfig) error {
	c = c.withDefaults()
	p := &PIN{vault: v, config: c}
	answer, err := v.conn.read(ctx, p.path())
	if err != nil {
		return fmt.Errorf("reading the PIN at %s/%s: %w", c.Mount, c.Path, err)
	}
	pin, err := pinOf(answer)
	if err != nil {
		return fmt.Errorf("reading the PIN at %s/%s: %w", c.Mount, c.Path, err)
	}
	pin.Wipe()
	return nil
}
