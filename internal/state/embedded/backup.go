package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tapseal/tapseal/internal/state"
)

// Backup writes a copy of the state to a new directory while the engine runs. It
// has everything that was acknowledged before, and is whole once it has its
// name. On the same file system it takes little space at first, because files
// are shared. To restore it, copy it back while no process has the state open.
func (e *Engine) Backup(ctx context.Context, dir string) error {
	const doing = "backing the state up"
	if err := e.operation(ctx, doing); err != nil {
		return err
	}
	finished := make(chan error, 1)
	go func() {
		defer e.life.RUnlock()
		finished <- e.backup(dir)
	}()
	select {
	case err := <-finished:
		if err != nil {
			return fmt.Errorf("%s to %q: %w", doing, dir, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", doing, state.ErrUnavailable, context.Cause(ctx))
	case <-e.medium.broken:
		return fmt.Errorf("%s: %w", doing, e.medium.err())
	}
}

func (e *Engine) backup(dir string) error {
	partial := dir + ".partial"
	for _, path := range []string{dir, partial} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%q exists already", path)
		}
	}
	err := e.db.Checkpoint(partial, pebble.WithFlushedWAL())
	if err == nil {
		err = e.verify(partial)
	}
	if err == nil {
		err = os.Rename(partial, dir)
	}
	if err != nil {
		_ = os.RemoveAll(partial)
		return clean(err)
	}
	return syncDirectory(filepath.Dir(dir))
}

var errUnlike = errors.New("the copy is not this state")

// verify opens the copy, which reads its log.
func (e *Engine) verify(dir string) error {
	i, err := Check(dir)
	if err != nil {
		return err
	}
	if i.ID != e.id {
		return errUnlike
	}
	return nil
}

// Info is what a directory holds.
type Info struct {
	ID       StateID
	Sequence uint64 // of the last commit
	Epoch    uint64 // of the control document
}

// Check says what is in a directory, a state or a backup of one, while no
// process has it open. It changes nothing but its lock file.
func Check(dir string) (_ Info, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("checking the state directory %q: %w", dir, err)
		}
	}()
	if err := checkDirectory(dir); err != nil {
		return Info{}, err
	}
	o := Options{}.withDefaults()
	m := newMedium(o.Log)
	lock, err := lockDirectory(dir, vfs.Default)
	if err != nil {
		return Info{}, err
	}
	defer lock.Close() //nolint:errcheck // only read
	p := tuned(o, vfs.Default, m, lock)
	p.ReadOnly, p.ErrorIfNotExists = true, true
	db, err := openDatabase(dir, p)
	if err != nil {
		return Info{}, err
	}
	defer db.Close() //nolint:errcheck // only read
	found, err := readMeta(db)
	if err != nil {
		return Info{}, err
	}
	return Info{ID: found.id, Sequence: found.sequence, Epoch: found.control.Epoch}, m.err()
}
