// Package protectedfile opens files that decide what a service does, and says
// whether somebody else could have changed them. It is a leaf: the domain and
// the services use the same rule.
package protectedfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"syscall"
)

// Read reads a regular file, at most maxBytes of it and one more, so that the
// caller sees that it is longer. open says how others than root and this
// process's user can change it, nil if they cannot; data is there all the same.
func Read(path string, maxBytes int64) (data []byte, open, err error) {
	// Without waiting for a writer, should it be a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: errors.New("is not a regular file")}
	}
	data, err = io.ReadAll(io.LimitReader(f, min(maxBytes, math.MaxInt64-1)+1))
	return data, Check(info), err
}

// Check says how others than root and this process's user can change a file,
// nil if they cannot. The error has no path: it reads on after the file's name.
func Check(info fs.FileInfo) error {
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return errors.New("has no owner that could be checked")
	case owner.Uid != 0 && int64(owner.Uid) != int64(os.Geteuid()):
		return errors.New("belongs to another user: it must be root's or this user's")
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("can be written by others (mode %04o): chmod go-w", info.Mode().Perm())
	}
	return nil
}
