package worker

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// HardenProcess keeps the memory of this process, which holds the PIN or a
// logged-in token, out of core files and away from other processes of the
// same user, and keeps argument values out of crash traces.
func HardenProcess() error {
	debug.SetTraceback("none")
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the process not dumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	return nil
}
