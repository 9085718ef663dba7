package secrets

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tapseal/tapseal/internal/secret"
)

// plantedPIN is looked for everywhere it must not be.
const plantedPIN = "planted-pin-7316204985"

// A server is one real OpenBao core in a process of its own.
type server struct {
	t       *testing.T
	dir     string
	args    []string
	url     string
	root    string
	keys    [][]byte
	cmd     *exec.Cmd
	exited  chan struct{}
	caFile  string
	stderr  lines
	address string
}

// startServer starts an in-memory core, or with raft one that unseals itself
// and keeps its data over a restart.
func startServer(t *testing.T, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), args: args, address: "127.0.0.1:0"}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func startRaft(t *testing.T) *server {
	t.Helper()
	key := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(key, bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	return startServer(t, "-storage", "raft", "-dir", filepath.Join(t.TempDir(), "raft"), "-seal", "static", "-seal-key", key)
}

func (s *server) auditFile() string { return filepath.Join(s.dir, "audit.log") }

func (s *server) start() {
	s.t.Helper()
	args := append([]string{"-listen", s.address, "-audit", s.auditFile(), "-init-out", filepath.Join(s.dir, "init.json")}, s.args...)
	s.cmd = exec.Command(devvault, args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.Stderr = &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		_ = s.cmd.Wait()
		s.t.Fatalf("devvault did not start: %v: %s", err, s.stderr.String())
	}
	s.exited = make(chan struct{})
	go func(c *exec.Cmd, exited chan struct{}) { _ = c.Wait(); close(exited) }(s.cmd, s.exited)
	s.url = strings.TrimSpace(strings.TrimPrefix(line, "ready "))
	_, s.address, _ = strings.Cut(s.url, "://")
	s.readInit()
}

func (s *server) readInit() {
	b, err := os.ReadFile(filepath.Join(s.dir, "init.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	var f struct {
		RootToken string   `json:"root_token"`
		Keys      [][]byte `json:"keys"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		s.t.Fatal(err)
	}
	s.root, s.keys = f.RootToken, f.Keys
}

// kill ends the process without a goodbye.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

func (s *server) config() Server {
	return Server{Address: s.url, AllowPlaintextLoopback: true, CAFile: s.caFile}
}

// as makes a plain client with a token, for looking at the server from outside.
func (s *server) as(token string) *connection {
	s.t.Helper()
	c, err := newConnection(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	c.api.SetToken(token)
	s.t.Cleanup(c.close)
	return c
}

func (s *server) admin() *Admin {
	s.t.Helper()
	a, err := NewAdmin(s.config(), secret.New([]byte(s.root)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(a.Close)
	return a
}

// must is a request as root that has to work.
func (s *server) must(path string, data map[string]any) *api.Secret {
	s.t.Helper()
	out, err := s.as(s.root).write(context.Background(), path, data)
	if err != nil {
		s.t.Fatalf("%s: %v", path, err)
	}
	return out
}

func (s *server) seal() { s.t.Helper(); s.must("sys/seal", nil) }

func (s *server) unseal() {
	s.t.Helper()
	c := s.as("")
	if _, err := c.api.Sys().Unseal(hexOf(s.keys[0])); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "the core is active", func() bool {
		_, err := s.as(s.root).read(context.Background(), "sys/mounts")
		return err == nil
	})
}

var testSetup = SetupConfig{TrustDomain: "example.test", ServerNames: []string{"tapseal.example.test"}}

// setUp applies the shipped set-up and puts the planted PIN in.
func (s *server) setUp(c SetupConfig) {
	s.t.Helper()
	plan, err := NewPlan(c)
	if err != nil {
		s.t.Fatal(err)
	}
	a := s.admin()
	if _, err := plan.Apply(context.Background(), a, false); err != nil {
		s.t.Fatal(err)
	}
	s.putPIN(plantedPIN)
}

func (s *server) putPIN(pin string) {
	s.t.Helper()
	if err := s.admin().PutPIN(context.Background(), PINConfig{}, secret.New([]byte(pin))); err != nil {
		s.t.Fatal(err)
	}
}

// identity makes the configuration of a service with a fresh wrapped secret_id.
func (s *server) identity(role string) Config {
	s.t.Helper()
	dir := s.t.TempDir()
	id, err := s.admin().RoleID(context.Background(), "approle", role)
	if err != nil {
		s.t.Fatal(err)
	}
	c := Config{Server: s.config(), Identity: Identity{
		Role: role, RoleID: id,
		WrappedSecretID: filepath.Join(dir, "wrapped"), TokenFile: filepath.Join(dir, "token"),
	}}
	s.wrap(c)
	return c
}

func (s *server) wrap(c Config) secret.Secret {
	s.t.Helper()
	w, err := s.admin().WrapSecretID(context.Background(), "approle", c.Role, 5*time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := secret.WriteFile(c.WrappedSecretID, w); err != nil {
		s.t.Fatal(err)
	}
	return w
}

func open(t *testing.T, c Config, o Options) *Vault {
	t.Helper()
	v, err := Open(context.Background(), c, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func newPIN(t *testing.T, v *Vault) *PIN {
	t.Helper()
	p, err := NewPIN(v, PINConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// wantPIN reads the PIN and compares.
func wantPIN(t *testing.T, p *PIN, want string) {
	t.Helper()
	got, err := p.PIN(context.Background())
	if err != nil {
		t.Fatalf("no PIN: %v", err)
	}
	defer got.Wipe()
	if !got.Equal(secret.New([]byte(want))) {
		t.Error("another PIN")
	}
}

// A fakeClock moves by hand.
type fakeClock struct {
	mu      sync.Mutex
	now     time.Time
	waiters []waiter
}

type waiter struct {
	at time.Time
	c  chan time.Time
}

func newFakeClock() *fakeClock { return &fakeClock{now: time.Now()} }

func (f *fakeClock) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *fakeClock) After(d time.Duration) <-chan time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := waiter{f.now.Add(d), make(chan time.Time, 1)}
	f.waiters = append(f.waiters, w)
	return w.c
}

func (f *fakeClock) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
	var rest []waiter
	for _, w := range f.waiters {
		if w.at.After(f.now) {
			rest = append(rest, w)
		} else {
			w.c <- f.now
		}
	}
	f.waiters = rest
}

// lines is a log that tests read.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 15 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// readSecret shows a secret to a test.
func readSecret(t *testing.T, path string) string {
	t.Helper()
	s, err := secret.ReadFile(path, maxTokenBytes)
	if err != nil {
		t.Fatal(err)
	}
	var text string
	s.Use(func(b []byte) { text = string(b) })
	return text
}
