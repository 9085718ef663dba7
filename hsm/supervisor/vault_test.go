package supervisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/vaulttest"
)

// A movedClock runs with the system's, some time ahead of it.
type movedClock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *movedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *movedClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

func (c *movedClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// newVaultRig is a rig whose PIN is in Vault.
func newVaultRig(t *testing.T, v *vaulttest.Server, change func(*Config)) *rig {
	t.Helper()
	v.Setup()
	v.PutPIN(testPIN)
	return newRig(t, func(c *Config) {
		c.PINFile = ""
		if err := os.Mkdir(c.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
		c.Vault = &Vault{Config: v.Identity("tapseal-hsm", c.StateDir)}
		if change != nil {
			change(c)
		}
	})
}

func (r *rig) recycle() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := QueryRecycle(ctx, r.c.SocketDir); err != nil {
		r.t.Fatal(err)
	}
}

// recycleAll replaces both workers once.
func (r *rig) recycleAll() {
	r.t.Helper()
	before := r.status()
	r.recycle()
	r.await("both are recycled", func(st *Status) bool {
		return allServe(st) && st.Workers[0].Recycles > before.Workers[0].Recycles && st.Workers[1].Recycles > before.Workers[1].Recycles
	})
}

// While Vault is gone, sealed or says no, workers recycle under load for half
// an hour of the injected clock, and no request fails.
func TestRecyclingWithoutVault(t *testing.T) {
	for name, lose := range map[string]func(*vaulttest.Server){
		"killed": (*vaulttest.Server).Kill,
		"sealed": (*vaulttest.Server).Seal,
		"denied": func(v *vaulttest.Server) { v.Deny("tapseal-hsm") },
	} {
		t.Run(name, func(t *testing.T) {
			v := vaulttest.Start(t)
			r := newVaultRig(t, v, nil)
			clock := &movedClock{}
			r.clock = clock
			r.start()
			r.await("all serve", allServe)
			loads := []*load{startLoad(r.c.workerSocket(0)), startLoad(r.c.workerSocket(1))}
			lose(v)
			for range 4 {
				clock.advance(10 * time.Minute)
				r.recycleAll()
			}
			for i, l := range loads {
				l.end(t)
				if l.broken > 0 {
					t.Errorf("slot %d: %d requests failed", i, l.broken)
				}
			}
			if st := r.status(); st.PIN.Source != PINFromVault || st.PIN.Problem == "" || st.PIN.ReadAt == "" {
				t.Errorf("the status does not say it: %+v", st.PIN)
			}
			// The control: a PIN is not kept for ever. The workers serve on.
			clock.advance(secrets.DefaultPINMaxAge)
			before := r.status()
			r.recycle()
			st := r.await("a replacement fails", func(st *Status) bool { return st.Workers[0].LastError != "" })
			if !strings.Contains(st.Workers[0].LastError, "no PIN for a login") || !allServe(st) || st.Workers[0].PID != before.Workers[0].PID {
				t.Errorf("%+v", st.Workers[0])
			}
			if log := r.read("log"); strings.Contains(log, testPIN) {
				t.Error("the PIN is in the log")
			}
		})
	}
}

// A PIN that was changed in Vault is used for the next login.
func TestPINChangesInVault(t *testing.T) {
	v := vaulttest.Start(t)
	r := newVaultRig(t, v, nil)
	r.start()
	r.await("all serve", allServe)
	first := r.read("state/" + lastOKName)
	v.PutPIN("another-4415")
	r.recycleAll()
	second := r.read("state/" + lastOKName)
	if !strings.Contains(first, "tapseal/data/hsm/pin, version ") || !strings.Contains(second, "tapseal/data/hsm/pin, version ") || first == second {
		t.Errorf("known to be right: %s then: %s", first, second)
	}
	if strings.Contains(first+second, testPIN) || strings.Contains(second, "4415") {
		t.Error("the PIN is in the state directory")
	}
	logins := r.read("logins")
	if strings.Count(logins, "PIN "+testPIN+"\n") != 2 || strings.Count(logins, "PIN another-4415\n") != 2 {
		t.Errorf("logins:\n%s", logins)
	}
}

// A refused PIN is not tried again, also if Vault is away after the unlock;
// what is used then was read after it.
func TestRefusedPINFromVault(t *testing.T) {
	v := vaulttest.StartRaft(t)
	r := newVaultRig(t, v, func(c *Config) { c.Workers = 1 })
	r.write("mode", modeRefuse)
	r.start()
	r.await("logins are stopped", func(st *Status) bool { return st.Login == LoginStopped })
	v.PutPIN("corrected-9921")
	v.Kill()
	_ = os.Remove(r.path("mode"))
	if _, _, err := Unlock(r.c, true); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); !strings.Contains(r.read("log"), "there is no PIN"); time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > patience {
			t.Fatalf("the log does not say that there is no PIN:\n%s", r.read("log"))
		}
	}
	if n := r.logins(); n != 1 {
		t.Fatalf("%d logins", n)
	}
	v.Begin()
	r.await("all serve", allServe)
	if logins := r.read("logins"); !strings.HasSuffix(logins, "PIN corrected-9921\n") || r.logins() != 2 {
		t.Errorf("logins:\n%s", logins)
	}
}

// A worker that is killed is back in time also if Vault hangs.
func TestHangingVault(t *testing.T) {
	v := vaulttest.Start(t)
	valve := newValve(t, v.Address())
	r := newVaultRig(t, v, func(c *Config) { c.Vault.Address = "http://" + valve.Addr().String() })
	r.start()
	r.await("all serve", allServe)
	valve.shut()
	limit := 2 * time.Second
	if testing.Short() { // with the race detector
		limit *= 3
	}
	for range 3 {
		st := r.status()
		_ = syscall.Kill(st.Workers[0].PID, syscall.SIGKILL)
		killed := time.Now()
		r.await("there is another worker", func(now *Status) bool {
			return now.Workers[0].State == stateServing && now.Workers[0].PID != st.Workers[0].PID
		})
		if took := time.Since(killed); took > limit {
			t.Errorf("back after %s", took)
		}
	}
}

// A valve forwards until it is shut: then connections stay and nothing moves.
type valve struct {
	net.Listener
	mu     sync.Mutex
	closed bool
}

func newValve(t *testing.T, target string) *valve {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{Listener: l}
	var all sync.WaitGroup
	var conns []net.Conn
	all.Add(1)
	go func() {
		defer all.Done()
		for {
			in, err := l.Accept()
			if err != nil {
				break
			}
			out, err := net.Dial("tcp", target)
			if err != nil {
				_ = in.Close()
				continue
			}
			conns = append(conns, in, out)
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Add(1)
				go func() { defer all.Done(); v.forward(way[0], way[1]) }()
			}
		}
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return v
}

func (v *valve) forward(to io.Writer, from net.Conn) {
	defer from.Close() //nolint:errcheck // the end of the way
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		v.mu.Lock()
		closed := v.closed
		v.mu.Unlock()
		if closed {
			continue
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
}

// A start that cannot have the PIN says so in one sentence, by key; only for a
// Vault that is away does it wait.
func TestColdStartFailsClosed(t *testing.T) {
	v := vaulttest.Start(t)
	r := newVaultRig(t, v, nil)
	refused := func(key, text string) {
		t.Helper()
		begun := time.Now()
		s, err := New(r.c, r.options())
		if err == nil {
			s.Close()
			t.Fatalf("%s: it starts", key)
		}
		if !strings.HasPrefix(err.Error(), key+": ") || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
			t.Errorf("want %s and %q: %v", key, text, err)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("%s: took %s", key, took)
		}
	}
	good := *r.c.Vault
	r.c.Vault.CAFile, r.c.Vault.Address = selfSigned(t, r), tlsVault(t, r)
	refused("vault.ca_file", "is not accepted")
	*r.c.Vault = good
	r.c.Vault.RoleID = "11111111-2222-3333-4444-555555555555"
	refused("vault.wrapped_secret_id", "compare role_id") // and the secret_id is used up
	r.c.Vault.RoleID = good.RoleID
	refused("vault.wrapped_secret_id", "issue one with")
	v.Wrap(good.Config)
	r.c.Vault.PINConfig.Path = "hsm/nothing"
	refused("vault.pin_path", "tapseal/hsm/nothing")
	r.c.Vault.PINConfig.Path = ""
	v.Deny("tapseal-hsm")
	refused("vault.pin_path", "denied")
	if logins := r.logins(); logins != 0 {
		t.Errorf("%d logins", logins)
	}

	v.Kill()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := r.c.openVaultWithin(ctx, r)
	if err == nil || !strings.HasPrefix(err.Error(), "vault.address: no PIN and so no service: ") {
		t.Errorf("away: %v", err)
	}
	if took := time.Since(begun); took < 1500*time.Millisecond || took > 5*time.Second {
		t.Errorf("gave up after %s", took)
	}
}

func (c *Config) openVaultWithin(ctx context.Context, r *rig) (pinSource, error) {
	return openVault(ctx, c.Vault, secrets.Options{Log: r.options().Log})
}

// A start waits for a Vault that is on its way up.
func TestColdStartWaits(t *testing.T) {
	v := vaulttest.StartRaft(t)
	r := newVaultRig(t, v, nil)
	v.Kill()
	begun := make(chan struct{})
	go func() {
		defer close(begun)
		time.Sleep(time.Second)
		v.Begin()
	}()
	r.start()
	<-begun // the server's cleanup reads what Begin writes
	r.await("all serve", allServe)
}

// selfSigned makes a certificate for 127.0.0.1 that no Vault has.
func selfSigned(t *testing.T, r *rig) string {
	t.Helper()
	certificate, _ := makeCertificate(t)
	r.write("other-ca.pem", string(certificate))
	return r.path("other-ca.pem")
}

func tlsVault(t *testing.T, r *rig) string {
	t.Helper()
	certificate, key := makeCertificate(t)
	r.write("vault.pem", string(certificate))
	r.write("vault.key", string(key))
	return vaulttest.Start(t, "-tls-cert", r.path("vault.pem"), "-tls-key", r.path("vault.key")).URL
}

func makeCertificate(t *testing.T) (certificate, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// A check connects, says what is wrong by key, and uses nothing up.
func TestCheckAsksVault(t *testing.T) {
	v := vaulttest.Start(t)
	r := newVaultRig(t, v, nil)
	check := func() *CheckReport { return Check(context.Background(), r.c, r.options()) }
	problem := func(key string) {
		t.Helper()
		report := check()
		found := false
		for _, p := range report.Problems {
			found = found || p.Key == key
			if strings.Contains(p.Problem, testPIN) {
				t.Error("the PIN is in a problem")
			}
		}
		if !found || report.Login == LoginOK {
			t.Errorf("want a problem with %s: %+v", key, report)
		}
	}
	for range 2 { // the first one did not use it up
		if report := check(); len(report.Problems) != 0 || report.Login != LoginNotTried || !strings.Contains(report.Vault, "was not used") {
			t.Errorf("before the first login: %+v", report)
		}
	}
	r.start()
	r.await("all serve", allServe)
	if report := check(); report.Login != LoginOK || !strings.Contains(report.Vault, "can be read") {
		t.Errorf("%+v", report)
	}
	r.stopNow()
	good := *r.c.Vault
	r.c.Vault.PINConfig.Path = "hsm/other"
	problem("vault.pin_path")
	*r.c.Vault = good
	r.c.Vault.TokenFile = r.path("none")
	problem("vault.wrapped_secret_id")
	*r.c.Vault = good
	r.c.Vault.Role = ""
	problem("vault.role")
	*r.c.Vault = good
	r.c.PINFile = r.path("pin")
	problem("pin_file")
	r.c.PINFile = ""
	v.Kill()
	problem("vault.address")
}
