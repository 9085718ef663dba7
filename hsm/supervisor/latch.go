package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// latchName is the file in the state directory that forbids logins.
const latchName = "login-stopped.json"

// A LatchRecord says why no login is tried any more. It holds no secret.
type LatchRecord struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// Reasons of a latch.
const (
	reasonPINRefused = "the token refused the PIN"
	reasonUnknown    = "workers died or hung in their login, so nobody knows how many tries the token has counted"
	reasonUnreadable = "the latch file cannot be read"
)

// latchHint is what an operator has to do.
const latchHint = "correct the PIN where it comes from, look at the token's PIN counter, then run: tapseal-hsm unlock --config FILE --yes"

// A latch is a file: it survives a restart, so that a service manager that
// starts the supervisor again and again cannot use up the tries of an HSM.
type latch struct{ path string }

func newLatch(stateDir string) latch { return latch{filepath.Join(stateDir, latchName)} }

// read reports whether logins are stopped. A latch file that cannot be read
// stops them as well.
func (l latch) read() (LatchRecord, bool) {
	data, err := os.ReadFile(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return LatchRecord{}, false
	}
	var r LatchRecord
	if err != nil || json.Unmarshal(data, &r) != nil || r.Reason == "" {
		return LatchRecord{Reason: reasonUnreadable}, true
	}
	return r, true
}

// set writes the latch so that it is there after a power failure.
func (l latch) set(r LatchRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding login latch: %w", err)
	}
	if err := writeDurably(l.path, append(data, '\n')); err != nil {
		return fmt.Errorf("writing login latch: %w", err)
	}
	return nil
}

func (l latch) clear() error {
	if err := os.Remove(l.path); err != nil {
		return fmt.Errorf("removing login latch: %w", err)
	}
	return syncDir(filepath.Dir(l.path))
}

// probe proves that a latch could be written, before there is need for one.
func (l latch) probe() error {
	path := l.path + ".probe"
	if err := writeDurably(path, []byte("probe\n")); err != nil {
		return err
	}
	return os.Remove(path)
}

func writeDurably(path string, data []byte) error {
	tmp := path + ".new"
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

// Unlock allows logins again. Without yes it only says what it would do. The
// second result is false if nothing is latched.
func Unlock(c *Config, yes bool) (LatchRecord, bool, error) {
	if c.StateDir == "" {
		return LatchRecord{}, false, Problem{"state_dir", "is required"}
	}
	l := newLatch(c.StateDir)
	r, stopped := l.read()
	if !stopped || !yes {
		return r, stopped, nil
	}
	return r, true, l.clear()
}
