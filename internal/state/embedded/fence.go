package embedded

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tapseal/tapseal/internal/state"
)

// A medium knows whether the state directory can still be trusted.
//
// What Pebble does on its own after an error of the medium is not good enough:
// it panics with its mutex unlocked when it cannot change to the next log (which
// ends the process in the middle of a stack trace), repeats a failed flush
// without a pause, goes on after Logger.Fatalf if that returns, and shows
// readers what it could not sync. A second fsync may also succeed where the
// first has lost data. So the first error is the last thing that happens on the
// medium: the goroutine that met it, and every other one that comes to write,
// waits for ever. To Pebble it looks as if the disk stood still, to the medium
// as if the power was cut. Callers do not wait: all of them look at broken.
type medium struct {
	log    *slog.Logger
	once   sync.Once
	cause  atomic.Pointer[error]
	broken chan struct{}
}

func newMedium(log *slog.Logger) *medium {
	return &medium{log: log, broken: make(chan struct{})}
}

// err is nil, or wraps state.ErrBroken and says what happened first.
func (m *medium) err() error {
	if cause := m.cause.Load(); cause != nil {
		return *cause
	}
	return nil
}

// poison notes a failure. Only the first one counts. reason and err must not
// have keys in them.
func (m *medium) poison(reason string, err error) {
	m.once.Do(func() {
		cause := fmt.Errorf("%w: %s", state.ErrBroken, reason)
		if err != nil {
			cause = fmt.Errorf("%w: %s: %w", state.ErrBroken, reason, err)
		}
		m.cause.Store(&cause)
		m.log.Error("the state directory failed", "error", cause) // first: who hears of it may end the process
		close(m.broken)
	})
}

// halt is the end of a goroutine that would go on with a broken medium.
func (m *medium) halt() { select {} }

// pass is before everything that changes the medium.
func (m *medium) pass() {
	if m.err() != nil {
		m.halt()
	}
}

// check is after it.
func (m *medium) check(doing string, err error) {
	if err != nil {
		m.poison(doing, clean(err))
		m.halt()
	}
}

var errCorrupt = errors.New("the database is damaged; restore a backup")

// clean keeps of an error what the operating system said. Pebble's own texts may
// have keys in them.
func clean(err error) error {
	var errno syscall.Errno
	switch {
	case err == nil, errors.Is(err, state.ErrBroken):
		return err
	case errors.As(err, &errno):
		return errno
	case pebble.IsCorruptionError(err):
		return errCorrupt
	case errors.Is(err, fs.ErrNotExist):
		return fs.ErrNotExist
	case errors.Is(err, io.ErrUnexpectedEOF):
		return io.ErrUnexpectedEOF
	default:
		return errors.New("the database reports an error")
	}
}

// A fence is a file system of which the state directory may fail once. Other
// paths (backups) are not its business.
type fence struct {
	vfs.FS
	dir    string
	medium *medium
}

func (f *fence) inside(name string) bool {
	return name == f.dir || strings.HasPrefix(name, f.dir+string(filepath.Separator))
}

// change runs something that changes the directory.
func (f *fence) change(name, doing string, do func() error) error {
	if !f.inside(name) {
		return do()
	}
	f.medium.pass()
	f.medium.check(doing, do())
	return nil
}

func (f *fence) file(name, doing string, open func() (vfs.File, error)) (file vfs.File, err error) {
	err = f.change(name, doing, func() (err error) {
		file, err = open()
		return err
	})
	if err != nil {
		return nil, err
	}
	if f.inside(name) {
		file = &fencedFile{file, f.medium}
	}
	return file, nil
}

func (f *fence) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(name, "creating a file", func() (vfs.File, error) { return f.FS.Create(name, c) })
}

func (f *fence) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	return f.file(newname, "reusing a file", func() (vfs.File, error) { return f.FS.ReuseForWrite(oldname, newname, c) })
}

func (f *fence) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.file(name, "opening a file", func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
}

func (f *fence) OpenDir(name string) (vfs.File, error) {
	return f.file(name, "opening the directory", func() (vfs.File, error) { return f.FS.OpenDir(name) })
}

func (f *fence) Rename(oldname, newname string) error {
	return f.change(newname, "renaming a file", func() error { return f.FS.Rename(oldname, newname) })
}

func (f *fence) Link(oldname, newname string) error {
	return f.change(newname, "linking a file", func() error { return f.FS.Link(oldname, newname) })
}

// Remove leaves the decision on a missing file to Pebble.
func (f *fence) Remove(name string) error {
	var missing error
	err := f.change(name, "removing a file", func() error {
		err := f.FS.Remove(name)
		if errors.Is(err, fs.ErrNotExist) {
			missing, err = err, nil
		}
		return err
	})
	if err == nil {
		err = missing
	}
	return err
}

// MkdirAll closes every directory to others: that of a backup holds the same
// records.
func (f *fence) MkdirAll(dir string, _ os.FileMode) error {
	return f.change(dir, "making a directory", func() error { return f.FS.MkdirAll(dir, 0o700) })
}

func (f *fence) Unwrap() vfs.FS { return f.FS }

// A fencedFile is one of the state directory.
type fencedFile struct {
	vfs.File
	medium *medium
}

func (f *fencedFile) Write(p []byte) (n int, err error) {
	f.medium.pass()
	n, err = f.File.Write(p)
	f.medium.check("writing a file", err)
	return n, nil
}

func (f *fencedFile) WriteAt(p []byte, off int64) (n int, err error) {
	f.medium.pass()
	n, err = f.File.WriteAt(p, off)
	f.medium.check("writing a file", err)
	return n, nil
}

func (f *fencedFile) Sync() error {
	f.medium.pass()
	f.medium.check("syncing a file", f.File.Sync())
	return nil
}

func (f *fencedFile) SyncData() error {
	f.medium.pass()
	f.medium.check("syncing a file", f.File.SyncData())
	return nil
}

func (f *fencedFile) SyncTo(length int64) (bool, error) {
	f.medium.pass()
	full, err := f.File.SyncTo(length)
	f.medium.check("syncing a file", err)
	return full, nil
}

func (f *fencedFile) Close() error {
	f.medium.check("closing a file", f.File.Close())
	return nil
}
