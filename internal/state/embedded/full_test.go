package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

const (
	fillEnv      = "TAPSEAL_TEST_FILL"
	fillLimitEnv = "TAPSEAL_TEST_FILL_LIMIT"
)

// No file can grow beyond a limit: the log's write fails.
func TestFileCannotGrow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	acknowledged, end := fill(t, dir, 256<<10)
	if !strings.Contains(end, state.ErrBroken.Error()) || !strings.Contains(end, syscall.EFBIG.Error()) {
		t.Errorf("the end was %q", end)
	}
	checkFilled(t, dir, acknowledged)
}

// The disk is full. It is a small file system in memory, which only root can
// mount, and not everywhere; TestFileCannotGrow and TestOneErrorIsTheEnd need
// neither.
func TestDiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=12m"); err != nil {
		t.Logf("no file system could be mounted: %v", err)
		return
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	dir := filepath.Join(disk, "state")
	acknowledged, end := fill(t, dir, 0)
	if !strings.Contains(end, state.ErrBroken.Error()) || !strings.Contains(end, syscall.ENOSPC.Error()) {
		t.Errorf("the end was %q", end)
	}
	if n, end := fill(t, dir, 0); n != 0 || !strings.HasPrefix(end, "opening the state directory") || !strings.Contains(end, syscall.ENOSPC.Error()) {
		t.Errorf("opened on a full disk: %d commits, %q", n, end)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=100m"); err != nil {
		t.Fatal(err)
	}
	checkFilled(t, dir, acknowledged)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, syscall.EROFS) {
		t.Errorf("read only: %v", err)
	}
}

// fill runs a child that commits until it cannot, and gives the number of its
// acknowledged commits and its last error.
func fill(t *testing.T, dir string, fileBytes int) (acknowledged int, end string) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildFills$")
	child.Env = append(os.Environ(), fillEnv+"="+dir, fillLimitEnv+"="+strconv.Itoa(fileBytes))
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "end "); ok {
			end = text
		} else if text, ok := strings.CutPrefix(lines.Text(), "ok "); ok {
			acknowledged, _ = strconv.Atoi(text)
		}
	}
	if err := child.Wait(); err != nil {
		t.Errorf("the child: %v", err)
	}
	t.Logf("%d commits, then: %s", acknowledged, end)
	return acknowledged, end
}

// TestChildFills is fill's child.
func TestChildFills(t *testing.T) {
	dir := os.Getenv(fillEnv)
	if dir == "" {
		return
	}
	limit, _ := strconv.Atoi(os.Getenv(fillLimitEnv))
	e, err := Open(dir, Options{})
	if err != nil {
		fmt.Printf("end %v\n", err)
		return
	}
	if limit > 0 {
		signal.Ignore(syscall.SIGXFSZ) // the write fails instead
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(limit), Max: uint64(limit)}); err != nil {
			t.Fatal(err)
		}
	}
	for n := 1; ; n++ {
		b := fillBatch(n)
		if err = e.Commit(context.Background(), b); err != nil {
			break
		}
		fmt.Printf("ok %d\n", n)
	}
	fmt.Printf("end %v\n", err)
	if !errors.Is(err, state.ErrBroken) || !errors.Is(e.Read(context.Background(), fillBatch(1)), state.ErrBroken) {
		t.Error("not broken")
	}
}

// fillBatch is new records, numbered.
func fillBatch(n int) *state.Batch {
	b := &state.Batch{}
	for i := range 16 {
		b.Rows = append(b.Rows, state.Row{Key: statetest.Key(n*16 + i), Next: []byte(fmt.Sprintf("%d%s", n, strings.Repeat("r", 200)))})
	}
	return b
}

func checkFilled(t *testing.T, dir string, acknowledged int) {
	t.Helper()
	e := open(t, dir, Options{})
	if acknowledged == 0 {
		t.Error("nothing was acknowledged")
	}
	for n := 1; n <= acknowledged; n++ {
		b := fillBatch(n)
		if err := e.Read(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for i := range b.Rows {
			if string(b.Rows[i].Record) != string(b.Rows[i].Next) {
				t.Fatalf("commit %d of %d is lost", n, acknowledged)
			}
		}
	}
	if n, err := e.Sequence(t.Context()); err != nil || n < uint64(acknowledged) || n > uint64(acknowledged)+1 {
		t.Errorf("sequence %d, %v, after %d", n, err, acknowledged)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
