package main

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestInterruptedMakeRun presses Ctrl-C: the whole process group is told. And
// the commands that it printed can be pasted, whatever the directory is called.
func TestInterruptedMakeRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "it's a place")
	cmd := exec.Command("make", "--no-print-directory", "-C", "../..", "run", "DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	_ = w.Close()
	out := bufio.NewReader(r)
	said := readUntil(t, out, "journal show")
	if !strings.Contains(said, "verdict: VALID") {
		t.Errorf("said %s", said)
	}
	runPasted(t, "../..", said)

	time.Sleep(100 * time.Millisecond) // into its wait
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil || len(bytes.TrimSpace(rest)) != 0 {
		t.Errorf("after the interrupt: %q, %v", rest, err)
	}
	// make itself ends by the signal, which a shell shows as 130.
	if err := cmd.Wait(); err != nil && !isInterrupt(cmd.ProcessState) {
		t.Errorf("ended: %v", err)
	}
}

func isInterrupt(s *os.ProcessState) bool {
	status, ok := s.Sys().(syscall.WaitStatus)
	return s.ExitCode() == 130 || ok && status.Signaled() && status.Signal() == syscall.SIGINT
}

// TestPastedCommandsOfDev does the same for what tapseald dev prints.
func TestPastedCommandsOfDev(t *testing.T) {
	cmd := exec.Command(filepath.Join(bin, "tapseald"), "dev", "--listen", "127.0.0.1:0", "--dir", filepath.Join(t.TempDir(), "a place"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	runPasted(t, ".", readUntil(t, bufio.NewReader(out), "logs are in"))
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// readUntil reads lines to the one with text in it.
func readUntil(t *testing.T, r *bufio.Reader, text string) string {
	t.Helper()
	var said strings.Builder
	for {
		line, err := r.ReadString('\n')
		said.WriteString(line)
		if err != nil {
			t.Fatalf("%v after %s", err, said.String())
		}
		if strings.Contains(line, text) {
			return said.String()
		}
	}
}

// runPasted runs what is indented in text, in dir.
func runPasted(t *testing.T, dir, text string) {
	t.Helper()
	commands := "set -e\n"
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") && !strings.Contains(line, "conformance") { // that one has a test of its own
			commands += line
		}
	}
	cmd := exec.Command("sh", "-c", commands)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TAPSEAL_CONTEXT=", "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("verdict: VALID")) || !bytes.Contains(out, []byte("VerifyCryptogram")) {
		t.Errorf("%v: %s\n%s", err, commands, out)
	}
}
