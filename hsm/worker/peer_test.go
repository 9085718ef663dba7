package worker_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/workertest"
)

// asUser connects with the user id of another user. The system call changes
// one thread only, which ends with the goroutine.
func asUser(t *testing.T, uid uint32, path string) error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
			result <- fmt.Errorf("becoming user %d: %w", uid, errno)
			return
		}
		c, err := workertest.Dial(path, patience)
		if err == nil {
			err = c.Conn.Close()
		}
		result <- err
	}()
	return <-result
}

// The kernel says who connects. Everything else would let them in: the socket
// and the directories above it are open to everybody.
func TestPeerIsChecked(t *testing.T) {
	own := uint32(os.Geteuid())
	allowed := own + 65534
	if own == 0 { // the real thing, with two users that are not the server's
		const daemon, stranger = 65533, 65534
		f := serve(t, workertest.NewToken(), func(o *worker.Options) { o.AllowedUIDs = []uint32{daemon} })
		for dir := filepath.Dir(f.path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(f.path, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := asUser(t, daemon, f.path); err != nil {
			t.Errorf("the daemon does not get in: %v", err)
		}
		if err := asUser(t, stranger, f.path); err == nil {
			t.Error("a stranger gets in")
		} else if strings.Contains(err.Error(), "becoming") || strings.Contains(err.Error(), "permission") {
			t.Errorf("the stranger was not kept out by the worker: %v", err)
		}
		if err := asUser(t, 0, f.path); err == nil {
			t.Error("root gets in without being the daemon")
		}
		if !strings.Contains(f.log.String(), "user id 65534 is not allowed") {
			t.Errorf("log: %s", f.log.String())
		}
		return
	}
	f := serve(t, workertest.NewToken(), func(o *worker.Options) { o.AllowedUIDs = []uint32{allowed} })
	if err := asUser(t, own, f.path); err == nil {
		t.Error("a user that is not allowed gets in")
	}
}

// The process asks the kernel about itself: from outside only root could.
func TestHardenProcess(t *testing.T) {
	const child = "TEST_HARDEN_CHILD"
	if os.Getenv(child) != "" {
		if err := worker.HardenProcess(); err != nil {
			t.Fatal(err)
		}
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		var core unix.Rlimit
		if err2 := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		fmt.Printf("dumpable %d, core %d of %d\n", dumpable, core.Cur, core.Max)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHardenProcess$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "dumpable 0, core 0 of 0\n") {
		t.Errorf("%v: %s", err, out)
	}
}
