package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Files in the state directory. A file that is being written has its name
// with a dot before and .new behind: a kill in the middle must not leave what
// an operator could take for a latch.
const (
	latchName      = "login-stopped.json"     // no login is tried
	inProgressName = "login-in-progress.json" // logins whose result nobody knows yet
	lastOKName     = "last-login-ok.json"     // the PIN that is known to be right
	writeTestName  = ".write-test"
)

// testWriting proves that files can be written here durably, before there is
// need for one, and removes what killed processes left of their writing. The
// caller holds the login lock.
func testWriting(stateDir string) error {
	for _, name := range []string{latchName, inProgressName, lastOKName, writeTestName} {
		if err := removeFile(newName(filepath.Join(stateDir, name))); err != nil {
			return err
		}
	}
	path := filepath.Join(stateDir, writeTestName)
	if err := writeDurably(path, []byte("test\n")); err != nil {
		return err
	}
	return removeFile(path)
}

// writeRecord writes v so that it is there after a power failure.
func writeRecord(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", filepath.Base(path), err)
	}
	if err := writeDurably(path, append(data, '\n')); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), withoutPath(err))
	}
	return nil
}

// readRecord reports whether there is a file, and an error if it has no T.
func readRecord[T any](path string) (v T, there bool, err error) {
	data, err := os.ReadFile(path) //nolint:gosec // in the state directory
	if errors.Is(err, fs.ErrNotExist) {
		return v, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	return v, true, err
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func newName(path string) string {
	return filepath.Join(filepath.Dir(path), "."+strings.TrimPrefix(filepath.Base(path), ".")+".new")
}

func writeDurably(path string, data []byte) error {
	tmp := newName(path)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // in the state directory
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // the state directory
	if err != nil {
		return err
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	return err
}
