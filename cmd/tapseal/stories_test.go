package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tapseal/tapseal/internal/phone"
)

// The binaries, built once, and one development mode for all stories that do
// not stop it.
var (
	bin    string
	shared *devProcess
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	flag.Parse()
	if f := flag.Lookup("test.fuzzworker"); f != nil && f.Value.String() == "true" {
		return m.Run() // a fuzz target needs no service
	}
	dir, err := os.MkdirTemp("", "tapseal-stories-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin = filepath.Join(dir, "bin")
	if err := build(bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared, err = startDev(filepath.Join(dir, "dev"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = shared.stop() }()
	return m.Run()
}

// build makes the three programs. Only tapseal-hsm has cgo in it, and it needs
// it also where the tests themselves run without.
func build(into string) error {
	for program, cgo := range map[string]string{"tapseal": "0", "tapseald": "0", "tapseal-hsm": "1"} {
		cmd := exec.Command("go", "build", "-o", into+"/", "../"+program)
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return nil
}

// A devProcess is one running tapseald dev.
type devProcess struct {
	cmd    *exec.Cmd
	dir    string
	stderr *output

	Address string `json:"address"`
	Context string `json:"context"`
	Made    bool   `json:"made"`
}

// devCommand is tapseald dev on a free port, unless args say otherwise.
func devCommand(dir string, args ...string) *exec.Cmd {
	args = append([]string{"dev", "--dir", dir, "--listen", "127.0.0.1:0", "--json"}, args...)
	return exec.Command(filepath.Join(bin, "tapseald"), args...)
}

// An output collects what a process that still runs prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

// String is what was printed so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// startDev starts development mode and waits until it is ready.
func startDev(dir string, args ...string) (*devProcess, error) {
	d := &devProcess{cmd: devCommand(dir, args...), dir: dir, stderr: &output{}}
	d.cmd.Stderr = d.stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		_ = d.cmd.Wait()
		return nil, fmt.Errorf("tapseald dev: %w: %s", err, d.stderr)
	}
	return d, json.Unmarshal(line, d)
}

// stop interrupts development mode and waits for its end.
func (d *devProcess) stop() error {
	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	if err := d.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, d.stderr)
	}
	return nil
}

func mustStart(t *testing.T, dir string, args ...string) *devProcess {
	t.Helper()
	d, err := startDev(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	return d
}

func mustStop(t *testing.T, d *devProcess) {
	t.Helper()
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// result is what a run of tapseal printed.
type result struct {
	stdout, stderr string
	status         int
}

// tapseal runs the real binary.
func tapseal(t *testing.T, contextPath, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "tapseal"), args...)
	cmd.Env = append(os.Environ(), "TAPSEAL_CONTEXT="+contextPath)
	cmd.Stdin = strings.NewReader(stdin)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), diag.String(), cmd.ProcessState.ExitCode()}
}

// tapJSON makes a tap.
func tapJSON(t *testing.T, contextPath, profile string) string {
	t.Helper()
	r := tapseal(t, contextPath, "", "tap", "--profile", profile, "--json")
	if r.status != 0 {
		t.Fatalf("tap: status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	return r.stdout
}

// mustBeValid checks that the service on the context verifies.
func mustBeValid(t *testing.T, contextPath string) {
	t.Helper()
	r := tapseal(t, contextPath, tapJSON(t, contextPath, "visa-cvn18"), "verify", "-", "--timeout", "5s", "--json")
	if r.status != 0 {
		t.Fatalf("verify: status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}

// flip changes the last bit of the value of one tag in the field 55 of a tap.
func flip(tap, tag string) (string, error) {
	at := strings.Index(tap, tag)
	if at < 0 {
		return "", fmt.Errorf("no tag %s", tag)
	}
	at += len(tag)
	n, err := strconv.ParseUint(tap[at:at+2], 16, 8)
	if err != nil {
		return "", err
	}
	last := at + 2 + 2*int(n) - 1
	digit, err := strconv.ParseUint(tap[last:last+1], 16, 8)
	if err != nil {
		return "", err
	}
	return tap[:last] + strings.ToUpper(strconv.FormatUint(digit^1, 16)) + tap[last+1:], nil
}

func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("TAPSEAL_CONTEXT", shared.Context)
			e.Setenv("DEV", shared.dir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": scriptStatus,
			"flip":   scriptFlip,
		},
	})
}

// scriptStatus is `status N file program args…`: run a program with file as
// its standard input ("none" for nothing), and expect exit status N. Its
// output goes to the files out and err.
func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: status N file program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	path := filepath.Join(bin, args[2])
	cmd := exec.Command(path, args[3:]...)
	if args[1] != "none" {
		cmd.Stdin = strings.NewReader(ts.ReadFile(args[1]))
	}
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"TAPSEAL_CONTEXT=" + ts.Getenv("TAPSEAL_CONTEXT"), "PATH=" + ts.Getenv("PATH")}
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Fatalf("%v", err)
	}
	ts.Check(os.WriteFile(ts.MkAbs("out"), out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("err"), diag.Bytes(), 0o600))
	if got := cmd.ProcessState.ExitCode(); got != want {
		ts.Fatalf("exit status %d, want %d\n%s%s", got, want, out.String(), diag.String())
	}
}

// scriptFlip is `flip TAG from to`.
func scriptFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: flip TAG from to")
	}
	changed, err := flip(ts.ReadFile(args[1]), args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(changed), 0o600))
}

// TestEveryProfile taps and verifies with all cards: a tap from a separately
// written phone is VALID, with the response cryptogram that the profile has,
// and is INVALID as soon as one bit of the cryptogram or of what it covers is
// another one.
func TestEveryProfile(t *testing.T) {
	arc := regexp.MustCompile(`^[0-9A-F]{16}$`)
	csu := regexp.MustCompile(`^[0-9A-F]{8}$`)
	for _, profile := range phone.Profiles() {
		t.Run(profile, func(t *testing.T) {
			decision, arpc, tail := []string{"--arc", "3030"}, arc, "3030"
			switch profile {
			case "visa-cvn18", "visa-cvn22", "emv-ccd":
				decision, arpc, tail = []string{"--csu", "00820000"}, csu, "00820000"
			}
			tap := tapJSON(t, shared.Context, profile)
			verify := append([]string{"verify", "-", "--json"}, decision...)
			a := mustAnswer(t, tapseal(t, shared.Context, tap, verify...), 0)
			if a.Verdict != "VALID" || a.Profile != profile || a.Freshness != "FRESH" || len(a.Reasons) != 0 {
				t.Errorf("answer %+v", a)
			}
			if !arpc.MatchString(a.ARPC) || a.IssuerAuthenticationData != a.ARPC+tail {
				t.Errorf("response cryptogram %q, issuer authentication data %q", a.ARPC, a.IssuerAuthenticationData)
			}
			for i, tag := range []string{"9F26", "9F02", "9F36", "9F37", "95"} {
				if i == 3 { // a good tap, or the limit on guesses would speak
					tap = tapJSON(t, shared.Context, profile)
					mustAnswer(t, tapseal(t, shared.Context, tap, verify...), 0)
				}
				bad, err := flip(tap, tag)
				if err != nil {
					t.Fatal(err)
				}
				a := mustAnswer(t, tapseal(t, shared.Context, bad, verify...), 1)
				if a.Verdict != "INVALID" || a.ARPC != "" || strings.Join(a.Reasons, " ") != "CRYPTOGRAM_MISMATCH" {
					t.Errorf("tag %s changed: %+v", tag, a)
				}
			}
		})
	}
}

func mustAnswer(t *testing.T, r result, status int) (a answer) {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d: %s%s", r.status, status, r.stdout, r.stderr)
	}
	if err := json.Unmarshal([]byte(r.stdout), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParallelTapsNeverShareACounter(t *testing.T) {
	const taps = 16
	var wg sync.WaitGroup
	atcs := make([]string, taps)
	for i := range taps {
		wg.Go(func() {
			r := tapseal(t, shared.Context, "", "tap", "--profile", "mastercard-cvn20", "--json")
			var out tapOutput
			if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
				t.Errorf("%v: %s", err, r.stderr)
			}
			atcs[i] = out.ATC
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, atc := range atcs {
		if seen[atc] {
			t.Errorf("counter %s was used twice", atc)
		}
		seen[atc] = true
	}
}

// alive reports whether a process is there.
func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }
