package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tapseal/tapseal/internal/protectedfile"
)

// prepareDirectory makes the directory if it is not there, and refuses one that
// others may look into: keys are hashes, but records say who paid when.
func prepareDirectory(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case err == nil:
		return syncDirectory(filepath.Dir(dir))
	case errors.Is(err, fs.ErrExist):
		return checkDirectory(dir)
	default:
		return withoutPath(err)
	}
}

func checkDirectory(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return withoutPath(err)
	}
	if !info.IsDir() {
		return errors.New("is not a directory")
	}
	if err := protectedfile.Check(info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("mode is %04o, must be 0700: others may look into it", mode)
	}
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return withoutPath(err)
	}
	defer d.Close() //nolint:errcheck // only read
	return d.Sync()
}

// ErrInUse means that another process has the directory open.
var ErrInUse = errors.New("it is in use by another process")

func lockDirectory(dir string, fs vfs.FS) (*pebble.Lock, error) {
	lock, err := pebble.LockDirectory(dir, fs)
	switch {
	case err == nil:
		return lock, nil
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EACCES) && exists(dir), err.Error() == "lock held by current process":
		return nil, ErrInUse
	default:
		return nil, fmt.Errorf("locking it: %w", clean(err))
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// withoutPath keeps the reason of an error: the caller says which directory.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
