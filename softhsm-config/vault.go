package softhsmconfig

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/secret"
)

// A Vault keeps the PIN, which then is in no file.
type Vault struct {
	Name   string // of this directory in Vault, from ClaimVault
	HasPIN bool   // without it the token is made anew, because its PIN is lost
	// Put keeps the PIN of a token that is about to be made.
	Put func(context.Context, secret.Secret) error
	// Config is how the supervisor gets at the PIN. Paths are relative to
	// the directory.
	Config supervisor.Vault
}

func (v *Vault) name() string {
	if v == nil {
		return ""
	}
	return v.Name
}

func (v *Vault) lost() bool { return v != nil && !v.HasPIN }

// configFor is Config with what a developer may have set in the file before.
func (v *Vault) configFor(before *supervisor.Vault) *supervisor.Vault {
	c := v.Config
	if before != nil {
		c.TimeoutMS, c.MaxAgeSeconds = before.TimeoutMS, before.MaxAgeSeconds
	}
	return &c
}

// nameBytes of randomness tell directories apart in one Vault.
const nameBytes = 4

// ClaimVault gives the name of the directory in Vault, a new one if there is
// nothing in the directory yet. It is refused if its PIN is in a file.
func ClaimVault(dir string) (string, error) {
	l, err := open(dir)
	if err != nil {
		return "", fmt.Errorf("preparing %s: %w", dir, err)
	}
	m, ours, err := l.readMarker()
	if err == nil && ours && m.Vault == "" {
		err = otherPlace("")
	}
	if err != nil {
		return "", fmt.Errorf("preparing %s: %w", dir, err)
	}
	if ours {
		return m.Vault, nil
	}
	random := make([]byte, nameBytes)
	if _, err := rand.Read(random); err != nil {
		return "", fmt.Errorf("preparing %s: %w", dir, err)
	}
	name := hex.EncodeToString(random)
	return name, l.writeMarker(name, false)
}

// otherPlace says that the directory was made for a PIN that is kept elsewhere.
func otherPlace(vault string) error {
	if vault == "" {
		return errors.New("it was made without Vault and its PIN is in a file (hint: choose another directory, or delete this one)")
	}
	return errors.New("it was made with Vault and its PIN is there (hint: start it with Vault again, choose another directory, or delete this one)")
}
