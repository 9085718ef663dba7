package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/vaulttest"
)

// Needles are forms in which a secret might be somewhere.
type needles map[string][]byte

func formsOf(secret []byte) needles {
	n := needles{
		"as it is":         secret,
		"as hexadecimal":   []byte(hex.EncodeToString(secret)),
		"as HEXADECIMAL":   []byte(strings.ToUpper(hex.EncodeToString(secret))),
		"as wide text":     wide(secret),
		"as Go would (%v)": []byte(strings.Trim(fmt.Sprint(secret), "[]")),
	}
	for shift := range 3 { // what is the same wherever it begins in a longer text
		text := base64.StdEncoding.EncodeToString(append(make([]byte, shift), secret...))
		n[fmt.Sprintf("in base64, shifted by %d", shift)] = []byte(text[4 : len(text)-4])
	}
	return n
}

func wide(b []byte) []byte {
	w := make([]byte, 0, 4*len(b))
	for _, c := range b {
		w = append(w, c, 0, 0, 0)
	}
	return w
}

// in lists the forms that are in data.
func (n needles) in(data []byte) (found []string) {
	for form, needle := range n {
		if bytes.Contains(data, needle) {
			found = append(found, form)
		}
	}
	return found
}

// memory searches everything that a process has mapped and that can be read:
// what a core image would hold, and more.
func (n needles) memory(pid int) (found []string, searched int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, 0, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = mem.Close() }()
	seen := map[string]bool{}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		begin, end, _ := strings.Cut(fields[0], "-")
		from, err1 := strconv.ParseInt(begin, 16, 64)
		to, err2 := strconv.ParseInt(end, 16, 64)
		if err1 != nil || err2 != nil || fields[1][0] != 'r' { // [vsyscall] does not fit, and holds nothing
			continue
		}
		const window, overlap = 1 << 20, 256
		buf := make([]byte, window+overlap)
		for at := from; at < to; at += window {
			got, _ := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
			searched += int64(got)
			for _, form := range n.in(buf[:got]) {
				seen[form] = true
			}
		}
	}
	for form := range seen {
		found = append(found, form)
	}
	return found, searched, nil
}

// A scene is a running service whose PIN is known to the test.
type scene struct {
	t       *testing.T
	d       *devProcess
	dir     string
	pin     needles
	hsm     int   // process of the supervisor
	workers []int // after their logins
	said    bytes.Buffer
}

// The PIN is looked for in everything that the processes leave or show, and in
// the memory of every process but the supervisor, which holds it. Each search
// has a control that finds something.
func TestPINIsNowhereElse(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, string, string){
		"from a file": func(*testing.T, string, string) {},
		"from vault":  pinIntoVault,
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, prepare)
			s.traffic()
			s.files()
			s.shown()
			s.memories()
			s.coresAreOff()
		})
	}
}

// metricsConfig has the development's certificates for the supervisor's metrics.
const metricsConfig = `metrics_listen: 127.0.0.1:0
metrics_tls: {certificate: tls/server.pem, key: tls/server-key.pem, client_ca: tls/ca.pem}
metrics_allow: ["spiffe://dev.tapseal.test/monitor"]
`

// newScene starts twice: the process that makes the token knows its PIN.
func newScene(t *testing.T, prepare func(t *testing.T, dir, pin string)) *scene {
	t.Helper()
	s := &scene{t: t, dir: filepath.Join(t.TempDir(), "dev")}
	mustStop(t, mustStart(t, s.dir))
	pin, err := os.ReadFile(filepath.Join(s.dir, "pin"))
	if err != nil {
		t.Fatal(err)
	}
	pin = bytes.TrimSpace(pin)
	s.pin = formsOf(pin)
	config := filepath.Join(s.dir, "hsm.yaml")
	data, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, append(data, metricsConfig...), 0o600); err != nil {
		t.Fatal(err)
	}
	prepare(t, s.dir, string(pin))
	s.d = mustStart(t, s.dir)
	t.Cleanup(func() { mustStop(t, s.d) })
	all := supervisors(t, s.dir)
	s.hsm = all[len(all)-1]
	return s
}

// pinIntoVault moves the PIN to a Vault that was set up as shipped.
func pinIntoVault(t *testing.T, dir, pin string) {
	v := vaulttest.Start(t)
	v.Setup()
	v.PutPIN(pin)
	path := filepath.Join(dir, "hsm.yaml")
	c, err := supervisor.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	c.PINFile = ""
	c.Vault = &supervisor.Vault{Config: v.Identity(secrets.DefaultNames().HSM, c.StateDir)}
	data, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// traffic makes the processes do what they do, well and badly, and replaces
// each worker: the new ones log in with the kept PIN.
func (s *scene) traffic() {
	s.t.Helper()
	mustBeValid(s.t, s.d.Context)
	tap := tapJSON(s.t, s.d.Context, "visa-cvn18")
	wrong, err := flip(tap, "9F26")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, input := range []string{wrong, tap[:40], "{}", "nonsense"} {
		r := tapseal(s.t, s.d.Context, input, "verify", "-", "--json")
		s.said.WriteString(r.stdout + r.stderr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := filepath.Join(s.dir, "run")
	if err := supervisor.QueryRecycle(ctx, run); err != nil {
		s.t.Fatal(err)
	}
	waitFor(s.t, "recycled workers", time.Minute, func() bool {
		st, err := supervisor.QueryStatus(ctx, run)
		if err != nil {
			s.t.Fatal(err)
		}
		s.workers = s.workers[:0]
		for _, w := range st.Workers {
			if w.Recycles == 0 || w.PID == 0 {
				return false
			}
			s.workers = append(s.workers, w.PID)
		}
		return true
	})
	mustBeValid(s.t, s.d.Context)
	mustBeValid(s.t, s.d.Context)
}

// files are the logs, the journal, the state, the sockets' directory and all
// else in the directory but the PIN's file, which is the control. The token's
// files are among them.
func (s *scene) files() {
	s.t.Helper()
	searched := 0
	err := filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched++
		switch found := s.pin.in(data); {
		case path == filepath.Join(s.dir, "pin"):
			if len(found) == 0 {
				s.t.Error("the control: the PIN is not in its file")
			}
		case len(found) > 0:
			s.t.Errorf("the PIN is in %s %s", path, found)
		}
		return nil
	})
	if err != nil || searched < 10 {
		s.t.Errorf("%d files were searched: %v", searched, err)
	}
}

// shown is what processes print and tell: output, errors, arguments,
// environments, metrics, the status page and the reports of checks.
func (s *scene) shown() {
	s.t.Helper()
	s.said.WriteString(s.d.stderr.String())
	s.said.WriteString(s.metrics())
	for _, args := range [][]string{{"check"}, {"check", "--json"}, {"unlock"}, {"supervise"}} {
		r := s.hsmCommand(append(args, "--config", filepath.Join(s.dir, "hsm.yaml"))...)
		s.said.WriteString(r)
	}
	if !strings.Contains(s.said.String(), "login: ok") || !strings.Contains(s.said.String(), "another supervisor") {
		s.t.Errorf("the control: a check that logs in, and a refused supervisor, said:\n%s", s.said.String())
	}
	for _, pid := range append([]int{s.hsm, s.d.cmd.Process.Pid}, s.workers...) {
		for _, name := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if err != nil && !errors.Is(err, fs.ErrPermission) {
				s.t.Fatal(err)
			}
			s.said.Write(data)
		}
	}
	if found := s.pin.in(s.said.Bytes()); len(found) > 0 {
		s.t.Errorf("the PIN is in what was shown %s", found)
	}
}

func (s *scene) hsmCommand(args ...string) string {
	s.t.Helper()
	out, _ := exec.Command(filepath.Join(bin, "tapseal-hsm"), args...).CombinedOutput() // some have to fail
	return string(out)
}

// monitor is the client that may ask for metrics.
func (s *scene) monitor() *http.Client {
	s.t.Helper()
	file := func(name string) string { return filepath.Join(s.dir, "tls", name) }
	pair, err := tls.LoadX509KeyPair(file("monitor.pem"), file("monitor-key.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	ca, err := os.ReadFile(file("ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{pair}},
	}}
}

// metrics reads the page of the supervisor, whose address is in its log.
func (s *scene) metrics() string {
	s.t.Helper()
	log, err := os.ReadFile(filepath.Join(s.dir, "log", "tapseal-hsm.log"))
	if err != nil {
		s.t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(log[bytes.LastIndex(log, []byte(`"msg":"metrics"`)):]), `"listen":"`)
	address, _, _ := strings.Cut(after, `"`)
	if !ok {
		s.t.Fatal("the log has no address of the metrics")
	}
	r, err := s.monitor().Get("https://" + address + "/metrics")
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Body.Close() //nolint:errcheck // only read
	page, err := io.ReadAll(r.Body)
	if err != nil || !bytes.Contains(page, []byte("tapseal_hsm_logins_total")) {
		s.t.Fatalf("metrics: %v: %s", err, page)
	}
	return string(page)
}

// memories needs root, which may read what the processes forbid their own
// user; without it they must forbid it.
func (s *scene) memories() {
	s.t.Helper()
	if os.Geteuid() != 0 {
		for _, pid := range append([]int{s.hsm}, s.workers...) {
			if _, _, err := s.pin.memory(pid); !errors.Is(err, fs.ErrPermission) {
				s.t.Errorf("the memory of process %d can be read by its user: %v", pid, err)
			}
		}
		return
	}
	found, searched, err := s.pin.memory(s.hsm)
	if err != nil || len(found) == 0 {
		s.t.Errorf("the control: the PIN is not in %d bytes of the supervisor: %v", searched, err)
	}
	// What each process has in memory anyway, so that its search means something.
	controls := map[int]string{s.d.cmd.Process.Pid: "assignments.yaml"}
	for _, pid := range s.workers {
		controls[pid] = "libsofthsm2"
	}
	for pid, known := range controls {
		control := needles{"control": []byte(known)}
		if found, _, err := control.memory(pid); err != nil || len(found) == 0 {
			s.t.Errorf("the control: process %d: %q is not found: %v", pid, known, err)
		}
		found, searched, err := s.pin.memory(pid)
		if err != nil || len(found) > 0 {
			s.t.Errorf("process %d (%s): the PIN is in its memory %s (%d bytes searched): %v", pid, known, found, searched, err)
		}
	}
	s.keysInMemory()
}

// demoKey is the issuer key of the demo token's first set, which is imported
// once, by a process that has ended.
const demoKey = "0123456789ABCDEFFEDCBA9876543210"

// keysInMemory looks for a clear issuer key in the daemon and the supervisor.
// A SoftHSM worker is the HSM, so there it may be.
func (s *scene) keysInMemory() {
	s.t.Helper()
	key, err := hex.DecodeString(demoKey)
	if err != nil {
		s.t.Fatal(err)
	}
	clearKey := needles{"clear key": key}
	for _, pid := range []int{s.hsm, s.d.cmd.Process.Pid} {
		if found, _, err := clearKey.memory(pid); err != nil || len(found) > 0 {
			s.t.Errorf("process %d: an issuer key is in its memory: %v", pid, err)
		}
	}
	own, _, err := clearKey.memory(os.Getpid())
	if err != nil || len(own) == 0 {
		s.t.Errorf("the control: this process has the key and it is not found: %v", err)
	}
}

// coresAreOff asks the kernel whether the limit is in force that keeps the
// memory out of core files.
func (s *scene) coresAreOff() {
	s.t.Helper()
	for _, pid := range append([]int{s.hsm}, s.workers...) {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		ok := false
		for line := range strings.Lines(string(limits)) {
			f := strings.Fields(line)
			ok = ok || strings.HasPrefix(line, "Max core file size") && f[4] == "0" && f[5] == "0"
		}
		if !ok {
			s.t.Errorf("process %d may leave a core file", pid)
		}
	}
}
