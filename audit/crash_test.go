package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Roles of the test binary when it is started as a child.
const (
	childEnv   = "TAPSEAL_AUDIT_CHILD"
	childDir   = "TAPSEAL_AUDIT_DIR"
	childFirst = "TAPSEAL_AUDIT_FIRST"
)

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "append":
		childAppend()
	case "limited":
		childLimited()
	default:
		os.Exit(m.Run())
	}
}

func child(role, dir string, first int) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+role, childDir+"="+dir, childFirst+"="+strconv.Itoa(first))
	cmd.Stderr = os.Stderr
	return cmd
}

// childAppend appends for ever and names on standard output, one a line,
// each record that was acknowledged.
func childAppend() {
	first, _ := strconv.Atoi(os.Getenv(childFirst))
	j, err := Open(os.Getenv(childDir), Options{SegmentBytes: 64 << 10, CommitInterval: -1})
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	window := make(chan struct{}, 200)
	for i := first; ; i++ {
		window <- struct{}{}
		j.Append([]Record{testRecord(i)}, func(err error) {
			if err == nil {
				_, _ = os.Stdout.WriteString(strconv.Itoa(i) + "\n")
			}
			<-window
		})
	}
}

// TestKilledWithoutWarning kills a writer again and again. The oracle is
// outside: what the child named is written down here before the kill.
func TestKilledWithoutWarning(t *testing.T) {
	const kills = 25
	dir := t.TempDir()
	acknowledged, next := make(map[string]bool), 0
	for range kills {
		acks := runAndKill(t, dir, next, time.Duration(1+rand.IntN(60))*time.Millisecond)
		for _, i := range acks {
			acknowledged[testRecord(i).RequestID] = true
			next = max(next, i+1)
		}
		next += 1000 // what was appended and not acknowledged keeps its own numbers
		checkSurvivors(t, dir, acknowledged)
	}
	t.Logf("%d records acknowledged before %d kills", len(acknowledged), kills)
	mustClose(t, mustOpen(t, dir, Options{}))
	checkSurvivors(t, dir, acknowledged)
	if len(acknowledged) < kills {
		t.Errorf("only %d records were acknowledged: the test shows nothing", len(acknowledged))
	}
}

func runAndKill(t *testing.T, dir string, first int, after time.Duration) (acks []int) {
	t.Helper()
	cmd := child("append", dir, first)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	killed := false
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		if i, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil {
			acks = append(acks, i)
		}
		if !killed {
			killed = true
			time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait()
	if !killed {
		t.Fatal("the child ended before it acknowledged anything")
	}
	return acks
}

// checkSurvivors expects every acknowledged record exactly once, in an
// unbroken sequence.
func checkSurvivors(t *testing.T, dir string, acknowledged map[string]bool) {
	t.Helper()
	seen := make(map[string]bool)
	next := uint64(1)
	for r, err := range ReadDir(dir) {
		var torn *TornTailError
		if errors.As(err, &torn) {
			break
		}
		if err != nil {
			t.Fatalf("ReadDir: %v", err)
		}
		if r.Sequence != next {
			t.Fatalf("sequence %d follows %d", r.Sequence, next-1)
		}
		next++
		if r.Kind == KindDecision && seen[r.RequestID] {
			t.Fatalf("record %q is there twice", r.RequestID)
		}
		seen[r.RequestID] = true
	}
	for id := range acknowledged {
		if !seen[id] {
			t.Fatalf("record %q was acknowledged and is gone", id)
		}
	}
}

// TestFileSizeLimit makes writes fail in the middle of a record.
func TestFileSizeLimit(t *testing.T) {
	dir := t.TempDir()
	cmd := child("limited", dir, 0)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("child: %v", err)
	}
	var taken, refused int
	if _, err := fmt.Sscanf(string(out), "%d %d", &taken, &refused); err != nil {
		t.Fatalf("child said %q: %v", out, err)
	}
	if taken == 0 || refused == 0 {
		t.Errorf("%d records taken, %d refused: want both", taken, refused)
	}
	checkSequence(t, dir, taken)
}

// childLimited appends until the file may not grow, some more, and again
// after the limit is gone.
func childLimited() {
	signal.Ignore(syscall.SIGXFSZ)
	var old unix.Rlimit
	_ = unix.Getrlimit(unix.RLIMIT_FSIZE, &old)
	_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 20_011, Max: old.Max})
	j, err := Open(os.Getenv(childDir), Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	taken, refused := 0, 0
	for refused < 10 {
		if appendAndWait(j, []Record{testRecord(taken)}) == nil {
			taken++
		} else {
			refused++
		}
	}
	_ = unix.Setrlimit(unix.RLIMIT_FSIZE, &old)
	for range 10 {
		if appendAndWait(j, []Record{testRecord(taken)}) == nil {
			taken++
		}
	}
	if err := j.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	fmt.Println(taken, refused)
	os.Exit(0)
}

// fullDisk gives a directory on a file system of 256 KiB. Who may not mount
// one gets the same failure from TestFileSizeLimit.
func fullDisk(t *testing.T) (dir string, ok bool) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Logf("no file system of its own for this test: %v", err)
		return "", false
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, true
}

func TestAFullDiskRefusesAndComesBack(t *testing.T) {
	dir, ok := fullDisk(t)
	if !ok {
		return
	}
	j := mustOpen(t, dir, Options{SegmentBytes: 96 << 10})
	ballast := dir + "/ballast"
	taken := 0
	for round := range 3 {
		refused := 0
		for refused < 20 {
			if err := appendAndWait(j, []Record{testRecord(taken), testRecord(taken + 1)}); err == nil {
				taken += 2
				continue
			} else if !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("round %d: %v, want ENOSPC", round, err)
			}
			refused++
		}
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%dk", 256+128*(round+1))); err != nil {
			t.Fatal(err)
		}
		mustAppend(t, j, testRecord(taken))
		taken++
		if err := os.WriteFile(ballast+strconv.Itoa(round), make([]byte, 32<<10), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-j.Failed():
		t.Errorf("a full disk poisoned the journal: %v", err)
	default:
	}
	mustClose(t, j)
	checkSequence(t, dir, taken)
}

func TestAFullDiskUnderLoad(t *testing.T) {
	dir, ok := fullDisk(t)
	if !ok {
		return
	}
	j := mustOpen(t, dir, Options{SegmentBytes: 64 << 10, CommitInterval: -1})
	var mu sync.Mutex
	acknowledged := make(map[string]bool)
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				r := testRecord(c*1000 + i)
				if j.AppendWait(t.Context(), r) == nil {
					mu.Lock()
					acknowledged[r.RequestID] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	mustClose(t, j)
	if n := len(acknowledged); n == 0 || n == 8000 {
		t.Fatalf("%d of 8000 records fitted", n)
	}
	checkSurvivors(t, dir, acknowledged)
}
