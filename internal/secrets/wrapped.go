package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hashicorp/vault/api"

	"github.com/tapseal/tapseal/internal/secret"
)

var errNoWrappedFile = errors.New("wrapped_secret_id is not configured")

// ErrStolen means that the wrapping token was used by somebody else, or is too
// old: the two cannot be told apart, so the worse is assumed.
var ErrStolen = errors.New("the wrapped secret_id may be stolen")

// ErrForeignWrap means that a wrapping token does not hold a secret_id of our
// role: somebody may have put an own one into the place of a stolen one.
var ErrForeignWrap = errors.New("the wrapping token is not for this role")

// unwrap turns the wrapping token in the file into a secret_id, which can be
// done once, and removes the file. Where the token comes from is checked
// before it is used.
func (v *Vault) unwrap(ctx context.Context) (secret.Secret, error) {
	token, err := v.readWrapped()
	if err != nil {
		return secret.Secret{}, err
	}
	defer token.Wipe()
	if err := v.checkWrapped(ctx, token); err != nil {
		return secret.Secret{}, err
	}
	answer, err := v.redeem(ctx, token)
	if answered(err) {
		return secret.Secret{}, v.stolen()
	}
	if err != nil {
		return secret.Secret{}, fmt.Errorf("unwrapping the secret_id: %w", err)
	}
	if err := removeFile(v.config.WrappedSecretID); err != nil {
		v.log.Error("the used wrapping token could not be removed: remove it by hand", "file", v.config.WrappedSecretID, "error", err)
	}
	id, _ := answer.Data["secret_id"].(string)
	if id == "" {
		return secret.Secret{}, fmt.Errorf("%w: %w: no secret_id was wrapped", ErrNeedsSecretID, ErrForeignWrap)
	}
	return secret.New([]byte(id)), nil
}

func (v *Vault) readWrapped() (secret.Secret, error) {
	if v.config.WrappedSecretID == "" {
		return secret.Secret{}, errNoWrappedFile
	}
	token, err := secret.ReadFile(v.config.WrappedSecretID, maxTokenBytes)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("wrapped_secret_id: %w", err)
	}
	return token, nil
}

// checkWrapped asks what the token wraps, without using it up.
func (v *Vault) checkWrapped(ctx context.Context, token secret.Secret) error {
	var data map[string]any
	token.Use(func(b []byte) { data = map[string]any{"token": string(b)} })
	answer, err := v.door.write(ctx, "sys/wrapping/lookup", data)
	if answered(err) {
		return v.stolen()
	}
	if err != nil {
		return fmt.Errorf("looking at the wrapping token: %w", err)
	}
	if answer == nil {
		return fmt.Errorf("%w: %w: no answer to what it wraps", ErrNeedsSecretID, ErrForeignWrap)
	}
	if path, _ := answer.Data["creation_path"].(string); path != v.secretIDPath() {
		return fmt.Errorf("%w: %w: it was made at %q, want %q; it was not used: find out who put it there, then %s",
			ErrNeedsSecretID, ErrForeignWrap, path, v.secretIDPath(), v.issueHint())
	}
	return nil
}

func (v *Vault) redeem(ctx context.Context, token secret.Secret) (*api.Secret, error) {
	token.Use(func(b []byte) { v.door.api.SetToken(string(b)) })
	defer v.door.api.ClearToken()
	answer, err := v.door.write(ctx, "sys/wrapping/unwrap", nil)
	if err == nil && answer == nil {
		err = ErrNotFound
	}
	return answer, err
}

// stolen is the sentence for the operator.
func (v *Vault) stolen() error {
	return fmt.Errorf("%w: %w: the wrapping token in %s was already used or has expired; unless it lay there too long, "+
		"someone else may hold the secret_id of role %q: destroy the role's secret_ids (accessors: vault list %s), look into Vault's audit log, then %s",
		ErrNeedsSecretID, ErrStolen, v.wrappedName(), v.config.Role, v.secretIDPath(), v.issueHint())
}

// missing reports whether a file is not there, and not some other trouble.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
