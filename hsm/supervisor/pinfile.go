package supervisor

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/tapseal/tapseal/hsm/worker"
)

// maxPINBytes bounds a PIN file; PKCS#11 tokens take 4 to 255 characters.
const maxPINBytes = 255

// readPIN reads the PIN file: a regular file of this user or root that nobody
// else can read. One newline at its end is not part of the PIN.
func readPIN(path string) (worker.PIN, error) {
	if path == "" {
		return worker.PIN{}, fmt.Errorf("is required")
	}
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return worker.PIN{}, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return worker.PIN{}, withoutPath(err)
	}
	if !info.Mode().IsRegular() {
		return worker.PIN{}, fmt.Errorf("is not a file")
	}
	if err := checkOwner(info, true); err != nil {
		return worker.PIN{}, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return worker.PIN{}, fmt.Errorf("mode is %04o, must be 0600 or less", mode)
	}
	return parsePIN(f)
}

func parsePIN(r io.Reader) (worker.PIN, error) {
	buf := make([]byte, maxPINBytes+3)
	defer clear(buf)
	n, err := io.ReadFull(r, buf)
	if err == nil {
		return worker.PIN{}, fmt.Errorf("is longer than %d bytes", maxPINBytes)
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF { //nolint:errorlint // ReadFull gives these as they are
		return worker.PIN{}, withoutPath(err)
	}
	pin := bytes.TrimSuffix(bytes.TrimSuffix(buf[:n], []byte("\n")), []byte("\r"))
	switch {
	case len(pin) == 0:
		return worker.PIN{}, fmt.Errorf("is empty")
	case len(pin) > maxPINBytes:
		return worker.PIN{}, fmt.Errorf("is longer than %d bytes", maxPINBytes)
	case bytes.ContainsAny(pin, "\r\n\x00"):
		return worker.PIN{}, fmt.Errorf("has more than one line")
	}
	return worker.NewPIN(pin), nil
}
