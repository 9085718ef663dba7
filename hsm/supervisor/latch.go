package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// A LatchRecord says why no login is tried any more. It holds no secret.
type LatchRecord struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// Reasons of a latch.
const (
	reasonPINRefused = "the token refused the PIN"
	reasonUnknown    = "logins ended without a known result, so nobody knows how many tries the token has counted"
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
	r, there, err := readRecord[LatchRecord](l.path)
	if there && (err != nil || r.Reason == "") {
		return LatchRecord{Reason: reasonUnreadable}, true
	}
	return r, there
}

func (l latch) set(r LatchRecord) error { return writeRecord(l.path, r) }

func (l latch) clear() error {
	if err := os.Remove(l.path); err != nil {
		return fmt.Errorf("removing login latch: %w", err)
	}
	return syncDir(filepath.Dir(l.path))
}

// Unlock allows logins again. Without yes it only says what it would do. The
// second result is false if nothing is latched. It waits for a login that is
// under way, in whatever process: the tries are written by that one then.
func Unlock(c *Config, yes bool) (LatchRecord, bool, error) {
	if c.StateDir == "" {
		return LatchRecord{}, false, Problem{"state_dir", "is required"}
	}
	l := newLatch(c.StateDir)
	r, stopped := l.read()
	if !stopped || !yes {
		return r, stopped, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*startLimit)
	defer cancel()
	lock, err := waitLock(ctx, loginLock(c.StateDir))
	if err != nil {
		return r, true, fmt.Errorf("waiting for the login under way: %w", err)
	}
	defer lock.Close()                   //nolint:errcheck // ends the lock
	if r, stopped = l.read(); !stopped { // another unlock was faster
		return r, false, nil
	}
	if err := newTries(c).forget(); err != nil {
		return r, true, fmt.Errorf("forgetting earlier logins: %w", err)
	}
	return r, true, l.clear()
}
