package server

import (
	"fmt"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/internal/config"
)

// HardenProcess keeps the process's memory, which holds cardholder data, out
// of core dumps and debuggers, and the arguments of functions, which are part
// of it, out of the traces of crashes. Files that the process makes are its own
// alone, also those that libraries make.
func HardenProcess() error {
	unix.Umask(0o077)
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core dumps: %w", err)
	}
	debug.SetTraceback("none")
	return nil
}

// TuneRuntime sets the garbage collector. With the defaults the process stays
// below 80 MB resident: the heap is a few MB, and the soft limit makes the
// collector run more often before idle heap adds up.
func TuneRuntime(l config.Limits) {
	debug.SetGCPercent(l.GCPercent)
	debug.SetMemoryLimit(int64(l.MemoryLimitMiB) << 20)
}
