package secrets

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
)

// A running service, its clock and what it logs.
type running struct {
	s      *server
	config Config
	vault  *Vault
	pin    *PIN
	clock  *fakeClock
	log    *lines
}

func run(t *testing.T, s *server) *running {
	t.Helper()
	s.setUp(testSetup)
	r := &running{s: s, config: s.identity("tapseal-hsm"), clock: newFakeClock(), log: &lines{}}
	r.vault = open(t, r.config, Options{Clock: r.clock, Log: r.log.logger()})
	r.pin = newPIN(t, r.vault)
	wantPIN(t, r.pin, plantedPIN)
	return r
}

func TestSealedAndUnsealed(t *testing.T) {
	r := run(t, startServer(t))
	r.s.seal()
	wantPIN(t, r.pin, plantedPIN)
	if _, problem := r.pin.Status(); !errors.Is(problem, ErrAway) || !strings.Contains(problem.Error(), "sealed") {
		t.Errorf("problem %v", problem)
	}
	if got := r.vault.Status(); got.State != StateAway {
		t.Errorf("state %v", got.State)
	}
	_, err := Open(context.Background(), r.config, Options{}) // a cold start fails closed
	if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "it is sealed") {
		t.Errorf("cold start: %v", err)
	}
	r.s.unseal()
	r.clock.advance(askAgain)
	r.s.putPIN("the-next-pin")
	wantPIN(t, r.pin, "the-next-pin")
	if got := r.vault.Status(); got.State != StateReady {
		t.Errorf("state %v", got.State)
	}
}

// The process is killed, half an hour passes while workers are replaced, and
// it comes back by itself with its data.
func TestThirtyMinutesAway(t *testing.T) {
	r := run(t, startRaft(t))
	r.s.kill()
	for range 30 {
		r.clock.advance(time.Minute)
		wantPIN(t, r.pin, plantedPIN)
	}
	if got := r.vault.Status(); got.State != StateAway {
		t.Errorf("state %v", got.State)
	}
	if _, err := Open(context.Background(), r.config, Options{}); !errors.Is(err, ErrAway) {
		t.Errorf("cold start: %v", err)
	}
	r.s.start()
	r.clock.advance(askAgain)
	r.s.putPIN("after-the-outage")
	wantPIN(t, r.pin, "after-the-outage")
	eventually(t, "the token is renewed", func() bool {
		r.clock.advance(lastRetry)
		return r.vault.Status().State == StateReady && r.vault.Status().TokenExpires.Sub(r.clock.Now()) > time.Hour
	})
}

func TestKeptPINEnds(t *testing.T) {
	r := run(t, startServer(t))
	r.s.kill()
	r.clock.advance(DefaultPINMaxAge)
	wantPIN(t, r.pin, plantedPIN)
	r.clock.advance(time.Second)
	_, err := r.pin.PIN(context.Background())
	if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "pin_max_age") {
		t.Errorf("error %v", err)
	}
}

func TestPINDeletedInVaultIsForgotten(t *testing.T) {
	r := run(t, startServer(t))
	r.s.must("tapseal/delete/hsm/pin", map[string]any{"versions": []int{1}})
	if _, err := r.as(t, "tapseal/metadata/hsm/pin"); err != nil {
		t.Fatal(err)
	}
	_, err := r.pin.PIN(context.Background())
	if !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v", err)
	}
	r.s.kill()
	if _, err := r.pin.PIN(context.Background()); err == nil {
		t.Error("the deleted PIN is still kept")
	}
}

func (r *running) as(t *testing.T, path string) (any, error) {
	t.Helper()
	return r.s.as(r.s.root).read(context.Background(), path)
}

func TestDeniedAfterPolicyChange(t *testing.T) {
	r := run(t, startServer(t))
	r.s.must("sys/policies/acl/tapseal-hsm", map[string]any{"policy": ownToken})
	wantPIN(t, r.pin, plantedPIN)
	if _, problem := r.pin.Status(); !errors.Is(problem, ErrDenied) {
		t.Errorf("problem %v", problem)
	}
	cold := newPIN(t, open(t, r.config, Options{}))
	if _, err := cold.PIN(context.Background()); !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "tapseal/hsm/pin") {
		t.Errorf("a cold start: %v", err)
	}
	r.s.must("sys/policies/acl/tapseal-hsm", map[string]any{"policy": Policies(Names{})[0].HCL})
	r.clock.advance(askAgain)
	r.s.putPIN("allowed-again")
	wantPIN(t, r.pin, "allowed-again")
}

func TestTokenEndsAndNewSecretIDIsTaken(t *testing.T) {
	r := run(t, startServer(t))
	r.s.must("auth/token/revoke", map[string]any{"token": readSecret(t, r.config.TokenFile)})
	wantPIN(t, r.pin, plantedPIN)
	got := r.vault.Status()
	if got.State != StateNeedsSecretID || !strings.Contains(got.Detail, "the kept token has ended") || !strings.Contains(got.Detail, "vault write -wrap-ttl") {
		t.Errorf("status %+v", got)
	}
	if _, err := Open(context.Background(), r.config, Options{}); !errors.Is(err, ErrNeedsSecretID) {
		t.Errorf("cold start: %v", err)
	}
	r.s.wrap(r.config)
	r.s.putPIN("with-a-new-token")
	eventually(t, "the new secret_id is used", func() bool {
		r.clock.advance(wrappedPoll)
		return r.vault.Status().State == StateReady
	})
	r.clock.advance(askAgain)
	wantPIN(t, r.pin, "with-a-new-token")
}

// The shortest token there is, in real time: it is renewed past its life.
func TestTokenIsRenewed(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	s.must("auth/approle/role/tapseal-hsm", map[string]any{"token_period": "3s"})
	v := open(t, s.identity("tapseal-hsm"), Options{})
	time.Sleep(5 * time.Second)
	if got := v.Status(); got.State != StateReady {
		t.Errorf("status %+v", got)
	}
	wantPIN(t, newPIN(t, v), plantedPIN)
}

func TestTokenExpires(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	s.must("auth/approle/role/tapseal-hsm", map[string]any{"token_period": "0", "token_ttl": "1s", "token_max_ttl": "2s"})
	v := open(t, s.identity("tapseal-hsm"), Options{})
	p := newPIN(t, v)
	wantPIN(t, p, plantedPIN)
	eventually(t, "the end of the token is seen", func() bool { return v.Status().State == StateNeedsSecretID })
	wantPIN(t, p, plantedPIN)
}

// A proxy delays every connection's answers.
type proxy struct {
	listener net.Listener
	delay    atomic.Int64
	wg       sync.WaitGroup
	stop     chan struct{}
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, stop: make(chan struct{})}
	p.wg.Add(1)
	go p.serve(target)
	t.Cleanup(func() { close(p.stop); _ = l.Close(); p.wg.Wait() })
	return p
}

func (p *proxy) serve(target string) {
	defer p.wg.Done()
	for {
		in, err := p.listener.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			_ = in.Close()
			continue
		}
		p.wg.Add(3)
		done := make(chan struct{}, 2)
		go func() { defer p.wg.Done(); _, _ = io.Copy(out, in); done <- struct{}{} }()
		go func() { defer p.wg.Done(); p.slowly(in, out); done <- struct{}{} }()
		go func() {
			defer p.wg.Done()
			select {
			case <-done:
			case <-p.stop:
			}
			_, _ = in.Close(), out.Close()
		}()
	}
}

func (p *proxy) slowly(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			select {
			case <-time.After(time.Duration(p.delay.Load())):
			case <-p.stop:
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func TestSlowServer(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	p := startProxy(t, s.address)
	c := s.identity("tapseal-hsm")
	c.Address, c.TimeoutMS = "http://"+p.listener.Addr().String(), 300
	clock := newFakeClock()
	v := open(t, c, Options{Clock: clock})
	pin := newPIN(t, v)
	wantPIN(t, pin, plantedPIN)
	p.delay.Store(int64(10 * time.Second))
	start := time.Now()
	wantPIN(t, pin, plantedPIN)
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the kept PIN took %v", took)
	}
	if _, problem := pin.Status(); !errors.Is(problem, ErrAway) || !strings.Contains(problem.Error(), "no answer in time") {
		t.Errorf("problem %v", problem)
	}
	start = time.Now()
	for range 100 { // workers that are replaced do not wait each for a timeout
		wantPIN(t, pin, plantedPIN)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("100 kept PINs took %v", took)
	}
	p.delay.Store(0)
	clock.advance(askAgain)
	s.putPIN("fast-again")
	wantPIN(t, pin, "fast-again")
}

func TestWrongAuthority(t *testing.T) {
	ours, theirs := newTestCA(t), newTestCA(t)
	certificate, key := ours.files(t)
	s := &server{t: t, dir: t.TempDir(), address: "127.0.0.1:0", args: []string{"-tls-cert", certificate, "-tls-key", key}, caFile: ours.file(t)}
	s.start()
	t.Cleanup(s.kill)
	s.setUp(testSetup)
	c := s.identity("tapseal-hsm")
	good := open(t, c, Options{})
	wantPIN(t, newPIN(t, good), plantedPIN)
	c.CAFile = theirs.file(t)
	t.Setenv("VAULT_SKIP_VERIFY", "true")
	_, err := Open(context.Background(), c, Options{})
	if !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "certificate is not accepted") {
		t.Errorf("error %v", err)
	}
}

func TestAddressesThatAreRefused(t *testing.T) {
	for name, s := range map[string]Server{
		"none":                        {},
		"plain":                       {Address: "http://127.0.0.1:8200"},
		"plain and elsewhere":         {Address: "http://192.0.2.1:8200", AllowPlaintextLoopback: true},
		"plain and a name":            {Address: "http://localhost:8200", AllowPlaintextLoopback: true},
		"with a password":             {Address: "https://a:b@vault.test"},
		"with a path":                 {Address: "https://vault.test/v1/x"},
		"a socket":                    {Address: "unix:///run/vault.sock"},
		"a word":                      {Address: "vault"},
		"authority that is not there": {Address: "https://vault.test", CAFile: filepath.Join(t.TempDir(), "none")},
	} {
		if err := s.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := (Server{Address: "https://vault.test:8200"}).Validate(); err != nil {
		t.Errorf("the control: %v", err)
	}
}

// The PIN is where it belongs and nowhere else. Each search has a control:
// something of the same event that must be found.
func TestNoSecretLeaks(t *testing.T) {
	r := run(t, startServer(t))
	token := readSecret(t, r.config.TokenFile)
	r.s.seal()
	wantPIN(t, r.pin, plantedPIN)
	r.clock.advance(DefaultPINMaxAge + time.Hour)
	_, sealedErr := r.pin.PIN(context.Background())
	r.s.unseal()
	r.s.must("auth/token/revoke", map[string]any{"token": token})
	_, endedErr := r.pin.PIN(context.Background())
	r.s.wrap(r.config)
	wrapping := readSecret(t, r.config.WrappedSecretID)
	if _, err := r.s.as(wrapping).write(context.Background(), "sys/wrapping/unwrap", nil); err != nil {
		t.Fatal(err)
	}
	_, stolenErr := Open(context.Background(), r.config, Options{Log: r.log.logger()})
	audit, err := os.ReadFile(r.s.auditFile())
	if err != nil {
		t.Fatal(err)
	}
	for where, text := range map[string]struct{ text, control string }{
		"audit file":   {string(audit), "tapseal/data/hsm/pin"},
		"log":          {r.log.String(), "no identity at vault"},
		"sealed error": {errorText(sealedErr), "sealed"},
		"ended error":  {errorText(endedErr), "secret_id"},
		"theft error":  {errorText(stolenErr), "stolen"},
		"server's log": {r.s.stderr.String(), ""},
		"environment":  {strings.Join(os.Environ(), "\n"), "PATH="},
	} {
		if !strings.Contains(text.text, text.control) {
			t.Errorf("%s: the control is missing: %s", where, text.text)
		}
		for _, planted := range []string{plantedPIN, token, wrapping} {
			if strings.Contains(text.text, planted) {
				t.Errorf("%s holds a secret", where)
			}
		}
	}
	found := false
	r.vault.conn.api.SetToken(r.s.root)
	pin, _, err := r.pin.ask(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	pin.Use(func(b []byte) { found = strings.Contains(string(b), plantedPIN) })
	if !found {
		t.Error("the control: the search does not find the PIN itself")
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestFilesBackend(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := OpenFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.PIN(context.Background()); err == nil || strings.Contains(err.Error(), dir) {
		t.Errorf("no file: %v", err)
	}
	for name, value := range map[string]string{PINFile: plantedPIN + "\n", DatabaseUserFile: "me", DatabasePasswordFile: "pass"} {
		if err := secret.WriteFile(filepath.Join(dir, name), secret.New([]byte(value))); err != nil {
			t.Fatal(err)
		}
	}
	pin, err := f.PIN(context.Background())
	if err != nil || !pin.Equal(secret.New([]byte(plantedPIN))) {
		t.Errorf("PIN: %v", err)
	}
	c, err := f.Credentials()
	if err != nil || c.Username != "me" || !c.Password.Equal(secret.New([]byte("pass"))) {
		t.Errorf("credentials: %v", err)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := f.PIN(context.Background()); err == nil {
		t.Error("a directory that others may write to is accepted")
	}
}
