package pkcs11

import (
	"bytes"
	"fmt"

	"github.com/tapseal/tapseal/internal/secret"
)

// readPINFile gives the PIN as bytes, which is what a login takes and wipes.
func readPINFile(path string) (pin []byte, err error) {
	s, err := secret.ReadPIN(path)
	if err != nil {
		return nil, fmt.Errorf("pin file %q: %w", path, err)
	}
	defer s.Wipe()
	s.Use(func(b []byte) { pin = bytes.Clone(b) })
	return pin, nil
}
