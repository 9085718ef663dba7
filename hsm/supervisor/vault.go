package supervisor

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
)

// Vault says where the user PIN is, and who the supervisor is to Vault. No
// other process has this identity.
type Vault struct {
	secrets.Config    `yaml:",inline"`
	secrets.PINConfig `yaml:",inline"`
}

func (v *Vault) validate() []Problem {
	found := vaultProblems(v.Config.Validate())
	found = append(found, vaultProblems(v.PINConfig.Validate())...)
	if v.TokenFile != "" {
		// A directory that is not there yet is state_dir, which supervise makes.
		err := secret.CheckDirectory(filepath.Dir(v.TokenFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			found = append(found, Problem{"vault.token_file", "its directory: " + err.Error()})
		}
	}
	return found
}

// vaultProblems takes apart what Validate of the configuration put together:
// errors that begin with their key.
func vaultProblems(err error) []Problem {
	if err == nil {
		return nil
	}
	if several, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // only the outermost was put together
		var found []Problem
		for _, e := range several.Unwrap() {
			found = append(found, vaultProblems(e)...)
		}
		return found
	}
	key, text, _ := strings.Cut(err.Error(), ": ")
	return []Problem{{"vault." + key, text}}
}

// vaultProblem says which configuration key an answer of Vault is about.
func vaultProblem(err error) Problem {
	key := "vault.address"
	switch {
	case errors.Is(err, secrets.ErrUntrusted):
		key = "vault.ca_file"
	case errors.Is(err, secrets.ErrNeedsSecretID):
		key = "vault.wrapped_secret_id"
	case errors.Is(err, secrets.ErrDenied), errors.Is(err, secrets.ErrNotFound), errors.Is(err, secrets.ErrRefused):
		key = "vault.pin_path"
	case strings.Contains(err.Error(), "token_file: "):
		key = "vault.token_file"
	}
	return Problem{key, err.Error()}
}
