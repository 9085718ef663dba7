// Package timerslack makes a process wake up less often. The monitor thread of
// the Go runtime polls every 20 µs as long as the program works in bursts,
// which is all that a service at less than full load does; with Linux's usual
// slack of 50 µs that is up to 14,000 wake-ups a second. Under streamed load
// they took a third of the daemon's CPU, and more than half of what a worker
// used outside its token. A larger slack lets the kernel put them together.
package timerslack

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Slack of the programs: how much later than asked a timer may fire.
const (
	// Daemon is short against the commit interval of the journal.
	Daemon = time.Millisecond
	// Workers, and the supervisor, have only timers of 100 ms and more.
	Workers = 5 * time.Millisecond
)

// Ensure gives the process a slack of at least d. A thread's slack comes from
// the thread that made it and outlives exec, and the monitor thread is there
// before main: so the process executes itself once more, unless its parent
// (systemd's TimerSlackNSec, or one of our programs) has done it. It must come
// first in main. Processes started later inherit the slack. An error is about
// speed only; the process may go on.
func Ensure(d time.Duration) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	enough, err := atLeast(d)
	if err != nil || enough {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d.Nanoseconds()), 0, 0, 0); err != nil {
		return fmt.Errorf("setting the timer slack: %w", err)
	}
	// A thread of a real-time class has none. Executing without this look
	// would go on for ever.
	if enough, err = atLeast(d); err != nil || !enough {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if err := syscall.Exec(self, os.Args, os.Environ()); err != nil { //nolint:gosec // this program itself
		return fmt.Errorf("executing this program again: %w", err)
	}
	return nil
}

func atLeast(d time.Duration) (bool, error) {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return false, fmt.Errorf("reading the timer slack: %w", err)
	}
	return time.Duration(now) >= d, nil
}
