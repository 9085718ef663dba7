package pkcs11

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxPINBytes is what a PIN file may hold; PKCS#11 leaves the limit to the token.
const maxPINBytes = 255

// readPINFile reads a PIN from a regular file that only its owner, the
// effective user, can read. One line end at its end is not part of the PIN.
// The caller wipes the slice. Errors never carry what was read.
func readPINFile(path string) ([]byte, error) {
	// O_NOFOLLOW and O_NONBLOCK: neither a link into someone else's files
	// nor a pipe that never answers.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("pin file: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("pin file: %w", err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("pin file %q is not a regular file", path)
	case st.Mode&0o177 != 0:
		return nil, fmt.Errorf("pin file %q may be used by others than its owner: its mode must be 0600", path)
	case int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("pin file %q does not belong to the user of this process", path)
	}
	buf := make([]byte, maxPINBytes+2)
	n, err := io.ReadFull(f, buf)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(buf)
		return nil, fmt.Errorf("pin file %q is empty or too long", path)
	}
	pin := bytes.TrimSuffix(buf[:n], []byte("\n"))
	if len(pin) == 0 || len(pin) > maxPINBytes {
		clear(buf)
		return nil, fmt.Errorf("pin file %q is empty or too long", path)
	}
	return pin, nil
}
