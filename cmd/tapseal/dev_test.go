package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pids are the processes that the logs of a development directory name.
func pids(t *testing.T, dir, log, message string) []int {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "log", log))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var found []int
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var l struct {
			Msg string
			PID int
		}
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == message && l.PID != 0 {
			found = append(found, l.PID)
		}
	}
	return found
}

func supervisors(t *testing.T, dir string) []int {
	return pids(t, dir, "tapseald.log", "supervisor started")
}

func workers(t *testing.T, dir string) []int {
	return pids(t, dir, "tapseal-hsm.log", "worker serves")
}

// waitFor polls, because the end of a process of somebody else cannot be waited for.
func waitFor(t *testing.T, what string, limit time.Duration, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}

func noneAlive(pids []int) func() bool {
	return func() bool {
		for _, pid := range pids {
			if alive(pid) {
				return false
			}
		}
		return true
	}
}

// TestSecondStartReusesTheDirectory also moves the directory in between.
func TestSecondStartReusesTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	first := mustStart(t, dir)
	if !first.Made {
		t.Error("the first start did not make the token")
	}
	mustBeValid(t, first.Context)
	mustStop(t, first)
	r := tapseal(t, first.Context, tapJSON(t, first.Context, "visa-cvn18"), "verify", "-")
	if r.status != statusOther || !strings.Contains(r.stderr, "hint: start it: tapseald dev --dir "+dir) {
		t.Errorf("nobody there: status %d: %s", r.status, r.stderr)
	}

	moved := filepath.Join(filepath.Dir(dir), "b")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	second := mustStart(t, moved)
	defer mustStop(t, second)
	if second.Made {
		t.Error("the second start made a new token")
	}
	if second.Context != filepath.Join(moved, "context.yaml") {
		t.Errorf("context %s", second.Context)
	}
	mustBeValid(t, second.Context)
	if tap := tapJSON(t, second.Context, "visa-cvn18"); !strings.Contains(tap, `"atc":"0004"`) {
		t.Errorf("the counter did not go on: %s", tap)
	}
}

func TestStopLeavesNoProcess(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{
		"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dev")
			d := mustStart(t, dir)
			children := append(supervisors(t, dir), workers(t, dir)...)
			if len(children) < 2 {
				t.Fatalf("children %v", children)
			}
			if err := d.cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			if err := d.cmd.Wait(); (err == nil) != (sig != syscall.SIGKILL) {
				t.Errorf("end: %v %s", err, d.stderr)
			}
			waitFor(t, "end of the children", 10*time.Second, noneAlive(children))
		})
	}
}

func TestSecondDevIsRefused(t *testing.T) {
	out, err := devCommand(shared.dir).CombinedOutput()
	if err == nil {
		t.Fatal("two on one directory")
	}
	if !strings.Contains(string(out), "in use by another tapseald dev") || !strings.Contains(string(out), shared.Context) {
		t.Errorf("message: %s", out)
	}
	mustBeValid(t, shared.Context)
}

func TestBusyPortIsReplaced(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	busy := l.Addr().String()
	d := mustStart(t, filepath.Join(t.TempDir(), "dev"), "--listen", busy)
	defer mustStop(t, d)
	if d.Address == busy {
		t.Errorf("serves on the busy address %s", busy)
	}
	mustBeValid(t, d.Context)
}

func TestLoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:0", "127.0.0.1"} {
		dir := filepath.Join(t.TempDir(), "dev")
		out, err := devCommand(dir, "--listen", address).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "listen address") {
			t.Errorf("%s: %v: %s", address, err, out)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: the directory was made all the same", address)
		}
	}
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.txt"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := devCommand(dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "did not make") {
		t.Errorf("%v: %s", err, out)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("directory now has %v, %v", entries, err)
	}
}

// TestKilledBringUpIsFinished kills the first start at moments spread over it.
func TestKilledBringUpIsFinished(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	for _, after := range []time.Duration{5, 30, 60, 100, 150, 200, 250} {
		cmd := devCommand(dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	d := mustStart(t, dir)
	defer mustStop(t, d)
	mustBeValid(t, d.Context)
}

// copyTree copies what is no socket.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.Walk(from, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(path, from)
		switch {
		case info.IsDir():
			return os.Mkdir(target, info.Mode())
		case !info.Mode().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode())
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestIncompleteDirectoryIsRefused(t *testing.T) {
	for _, missing := range []string{"pin", "keys.yaml", "tokens", "hsm.yaml"} {
		t.Run(missing, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "dev")
			copyTree(t, shared.dir, dir)
			if err := os.RemoveAll(filepath.Join(dir, missing)); err != nil {
				t.Fatal(err)
			}
			out, err := devCommand(dir).CombinedOutput()
			if err == nil || !strings.Contains(string(out), missing) || !strings.Contains(string(out), "start again") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// TestSupervisorThatCannotStart: the reason is in the message, not only in a log.
func TestSupervisorThatCannotStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	copyTree(t, shared.dir, dir)
	if err := os.Chmod(filepath.Join(dir, "pin"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := devCommand(dir).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "ended before it was ready") || !strings.Contains(string(out), "pin_file: mode is 0644") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestSupervisorComesBack kills the supervisor under a running daemon.
func TestSupervisorComesBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	d := mustStart(t, dir)
	defer mustStop(t, d)
	mustBeValid(t, d.Context)
	before := supervisors(t, dir)
	if err := syscall.Kill(before[len(before)-1], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	tap := tapJSON(t, d.Context, "emv-ccd")
	waitFor(t, "a verdict after the supervisor's end", 15*time.Second, func() bool {
		r := tapseal(t, d.Context, tap, "verify", "-", "--request-id", "again", "--json")
		if r.status == statusInvalid {
			t.Fatalf("the verdict changed: %s", r.stdout)
		}
		return r.status == statusValid
	})
	if after := supervisors(t, dir); len(after) != len(before)+1 {
		t.Errorf("supervisors %v, then %v", before, after)
	}
}

// TestWorkerKilled kills each worker in turn: no verdict changes.
func TestWorkerKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	d := mustStart(t, dir)
	defer mustStop(t, d)
	for _, pid := range workers(t, dir) {
		tap := tapJSON(t, d.Context, "mastercard-cvn21")
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		r := tapseal(t, d.Context, tap, "verify", "-", "--timeout", "5s", "--json")
		if r.status != statusValid {
			t.Errorf("status %d: %s%s", r.status, r.stdout, r.stderr)
		}
	}
}

func TestDirectoryIsPrivate(t *testing.T) {
	err := filepath.Walk(shared.dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if mode := info.Mode(); mode.Perm()&0o077 != 0 && mode.Type() != os.ModeSymlink {
			return fmt.Errorf("%s has mode %s", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
