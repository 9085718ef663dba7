// Package vaulttest starts a real OpenBao core for tests of other packages and
// sets it up as tapseal vault-setup does.
package vaulttest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
)

// A Server is one core in a process of its own, which ends with the test.
type Server struct {
	URL    string
	Root   string // token of everything
	CAFile string // set it before Setup if the core has a certificate

	t       testing.TB
	dir     string
	args    []string
	address string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// Start starts a core in memory; args are further ones of devvault.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), args: args, address: "127.0.0.1:0"}
	s.Begin()
	t.Cleanup(s.Kill)
	return s
}

// StartRaft starts a core that unseals itself and whose data outlives Kill.
func StartRaft(t testing.TB) *Server {
	t.Helper()
	key := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(key, bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	return Start(t, "-storage", "raft", "-dir", filepath.Join(t.TempDir(), "raft"), "-seal", "static", "-seal-key", key)
}

// program builds devvault, or finds the built one; scripts/tool keeps it.
func program(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("vaulttest does not know where it is")
	}
	var stderr bytes.Buffer
	cmd := exec.Command(filepath.Join(filepath.Dir(file), "../../scripts/tool"), "devvault")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("building devvault: %v: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// Begin starts the process, again after a Kill, at the same address.
func (s *Server) Begin() {
	s.t.Helper()
	initial := filepath.Join(s.dir, "init.json")
	args := append([]string{"-listen", s.address, "-init-out", initial}, s.args...)
	s.cmd = exec.Command(program(s.t), args...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	s.cmd.Stderr = &stderr
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
		s.t.Fatalf("devvault did not start: %v: %s", err, stderr.String())
	}
	s.exited = make(chan struct{})
	go func(c *exec.Cmd, exited chan struct{}) { _ = c.Wait(); close(exited) }(s.cmd, s.exited)
	s.URL = strings.TrimSpace(strings.TrimPrefix(line, "ready "))
	_, s.address, _ = strings.Cut(s.URL, "://")
	data, err := os.ReadFile(initial)
	if err != nil {
		s.t.Fatal(err)
	}
	var made struct {
		RootToken string `json:"root_token"`
	}
	if err := json.Unmarshal(data, &made); err != nil {
		s.t.Fatal(err)
	}
	s.Root = made.RootToken
}

// Kill ends the process without a goodbye.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}

// Address is host:port.
func (s *Server) Address() string { return s.address }

// Server is how clients find it.
func (s *Server) Server() secrets.Server {
	return secrets.Server{Address: s.URL, AllowPlaintextLoopback: true, CAFile: s.CAFile}
}

// HTTPClient is for what the package secrets does not ask. It trusts whoever
// is there.
func (s *Server) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // our own child on loopback
	}}
}

// Admin has the root token.
func (s *Server) Admin() *secrets.Admin {
	s.t.Helper()
	a, err := secrets.NewAdmin(s.Server(), secret.New([]byte(s.Root)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(a.Close)
	return a
}

// Apply writes a plan.
func (s *Server) Apply(p secrets.Plan) {
	s.t.Helper()
	if _, err := p.Apply(context.Background(), s.Admin(), false); err != nil {
		s.t.Fatal(err)
	}
}

// Setup writes policies, roles and engines, as shipped.
func (s *Server) Setup() {
	s.t.Helper()
	plan, err := secrets.NewPlan(secrets.SetupConfig{TrustDomain: "example.test"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.Apply(plan)
}

// PutPIN writes a version of the PIN.
func (s *Server) PutPIN(pin string) {
	s.t.Helper()
	if err := s.Admin().PutPIN(context.Background(), secrets.PINConfig{}, secret.New([]byte(pin))); err != nil {
		s.t.Fatal(err)
	}
}

// Identity is the configuration of a service, with a wrapped secret_id in dir,
// where its token will be as well.
func (s *Server) Identity(role, dir string) secrets.Config {
	s.t.Helper()
	id, err := s.Admin().RoleID(context.Background(), "approle", role)
	if err != nil {
		s.t.Fatal(err)
	}
	c := secrets.Config{Server: s.Server(), Identity: secrets.Identity{
		Role: role, RoleID: id,
		WrappedSecretID: filepath.Join(dir, "wrapped-secret-id"), TokenFile: filepath.Join(dir, "vault-token"),
	}}
	s.Wrap(c)
	return c
}

// Wrap puts a new wrapped secret_id where c looks for it.
func (s *Server) Wrap(c secrets.Config) {
	s.t.Helper()
	token, err := s.Admin().WrapSecretID(context.Background(), "approle", c.Role, 5*time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := secret.WriteFile(c.WrappedSecretID, token); err != nil {
		s.t.Fatal(err)
	}
}

// Deny replaces a policy by one that allows its owner to keep its token.
func (s *Server) Deny(policy string) {
	s.t.Helper()
	s.Apply(secrets.Plan{Writes: []secrets.Write{{Kind: secrets.WritePolicy, Path: policy, Data: map[string]any{
		"policy": `path "auth/token/lookup-self" { capabilities = ["read"] }`,
	}}}})
}

// Seal seals the core; one in memory cannot be opened again.
func (s *Server) Seal() {
	s.t.Helper()
	r, err := http.NewRequest(http.MethodPut, s.URL+"/v1/sys/seal", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", s.Root)
	answer, err := s.HTTPClient().Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		s.t.Fatalf("sealing: %s", answer.Status)
	}
}
