package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MaxPINBytes bounds a PIN; PKCS#11 tokens take 4 to 255 characters.
const MaxPINBytes = 255

// maxFileBytes bounds every other secret file.
const maxFileBytes = 64 << 10

// ReadFile reads a secret of one line, at most maxBytes long: a PIN, a
// password, a token. One line end at its end is not part of it. The file is
// refused unless it is a regular file, not a link, of this user or root, that
// nobody else may use (mode 0600 or less). The error says what is wrong with
// the file without its path, which the caller's own configuration key names,
// and never what is in it.
func ReadFile(path string, maxBytes int) (Secret, error) {
	all, err := readPrivate(path, maxBytes+len("\r\n"))
	if err != nil {
		return Secret{}, err
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(all, []byte("\n")), []byte("\r"))
	if err := checkLine(line, maxBytes); err != nil {
		clear(all)
		return Secret{}, err
	}
	return New(line), nil
}

func checkLine(line []byte, maxBytes int) error {
	switch {
	case len(line) == 0:
		return errors.New("is empty")
	case len(line) > maxBytes:
		return tooLong(maxBytes)
	case bytes.ContainsAny(line, "\r\n\x00"):
		return errors.New("has more than one line")
	}
	return nil
}

// ReadDocument reads a secret of many lines, such as a private key in PEM
// form, under the same conditions and up to 64 KiB.
func ReadDocument(path string) (Secret, error) {
	all, err := readPrivate(path, maxFileBytes)
	if err == nil && len(all) == 0 {
		err = errors.New("is empty")
	}
	if err != nil {
		return Secret{}, err
	}
	return New(all), nil
}

// ReadPIN is ReadFile for a PIN.
func ReadPIN(path string) (Secret, error) { return ReadFile(path, MaxPINBytes) }

func readPrivate(path string, maxBytes int) ([]byte, error) {
	if path == "" {
		return nil, errors.New("is required")
	}
	// Not a link into someone else's files, nor a pipe that never answers.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if errors.Is(err, syscall.ELOOP) {
		return nil, errors.New("is a link")
	}
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if err := checkPrivate(info); err != nil {
		return nil, err
	}
	return readBounded(f, maxBytes)
}

// readBounded reads into one buffer, so that no copy stays behind.
func readBounded(r io.Reader, maxBytes int) ([]byte, error) {
	buf := make([]byte, maxBytes+1)
	n, err := io.ReadFull(r, buf)
	switch {
	case err == nil:
		clear(buf)
		return nil, tooLong(maxBytes)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return buf[:n], nil
	default:
		clear(buf)
		return nil, withoutPath(err)
	}
}

func tooLong(maxBytes int) error { return fmt.Errorf("is longer than %d bytes", maxBytes) }

func checkPrivate(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("is not a file")
	}
	if err := checkOwner(info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("mode is %04o, must be 0600 or less", mode)
	}
	return nil
}

func checkOwner(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New("has no owner that can be checked")
	}
	if uid := int(st.Uid); uid != os.Geteuid() && uid != 0 {
		return fmt.Errorf("belongs to uid %d, must belong to this user (%d) or root", uid, os.Geteuid())
	}
	return nil
}

// CheckDirectory refuses a directory of secrets in which others could replace
// a file: it must belong to this user or root, and nobody else may write.
func CheckDirectory(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return withoutPath(err)
	}
	if !info.IsDir() {
		return errors.New("is not a directory")
	}
	if err := checkOwner(info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("mode is %04o: others may write there, must be 0700", mode)
	}
	return nil
}

// WriteFile writes a secret to a file with mode 0600, durably and at once: a
// reader sees the old secret or the new one, also after a power cut.
func WriteFile(path string, s Secret) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".secret-*") // made with mode 0600
	if err != nil {
		return withoutPath(err)
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
			err = withoutPath(err)
		}
	}()
	s.Use(func(b []byte) { _, err = f.Write(b) })
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDirectory(dir)
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the directory of a file that the operator names
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only read
	return d.Sync()
}

// withoutPath keeps the reason of an error: the caller says which file.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	var linkErr *os.LinkError
	if errors.As(err, &linkErr) {
		return linkErr.Err
	}
	return err
}
