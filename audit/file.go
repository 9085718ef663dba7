package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// segmentFile is the file that is written to. It is an interface for one
// failure that no real file here can be made to show: fdatasync answering EIO.
type segmentFile interface {
	WriteAt(b []byte, off int64) (int, error)
	// Allocate reserves the bytes [off, off+size) and extends the file.
	Allocate(off, size int64) error
	Truncate(size int64) error
	// Datasync makes everything written durable. After an error nobody
	// knows what is on the disk, and asking again would hide it.
	Datasync() error
	Close() error
}

type osFile struct {
	*os.File
	fd int // Fd() once: each call of it changes the file's mode
}

func newOSFile(f *os.File) segmentFile {
	return &osFile{File: f, fd: int(f.Fd())}
}

func (f *osFile) Allocate(off, size int64) error {
	return retryInterrupted(func() error { return unix.Fallocate(f.fd, 0, off, size) })
}

func (f *osFile) Datasync() error {
	// An interrupted call has not tried: that is no failure of the disk.
	return retryInterrupted(func() error { return unix.Fdatasync(f.fd) })
}

func retryInterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// lockDir takes the lock of a journal directory. The kernel releases it with
// the process, however that ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking journal: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("locking journal: %w", err)
	}
	return f, nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
