package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// childEnv makes the test binary a program that calls Ensure.
const childEnv = "TAPSEAL_TIMERSLACK_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	if err := Ensure(Workers); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	fmt.Println(os.Getpid(), own, err, strings.Join(os.Args[1:], " "))
}

func TestEveryThreadGetsTheSlack(t *testing.T) {
	cmd := exec.Command(os.Args[0], "a", "b c")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Same process, same arguments, and the slack came through exec, so the
	// runtime's threads have it too.
	want := fmt.Sprintf("%d %d <nil> a b c\n", cmd.Process.Pid, Workers.Nanoseconds())
	if string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
