package secrets

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const daemonURI = "spiffe://example.test/tapseal/daemon"

// A listening service with certificates from Vault.
type listening struct {
	s            *server
	vault        *Vault
	certificates *Certificates
	clock        *fakeClock
	changes      atomic.Int64
	listener     net.Listener
	wg           sync.WaitGroup
}

// listen starts a server that echoes to whoever shows a good certificate.
func listen(t *testing.T) *listening {
	t.Helper()
	l := &listening{s: startServer(t), clock: newFakeClock()}
	l.s.setUp(testSetup)
	l.vault = open(t, l.s.identity("tapseal-daemon"), Options{Clock: l.clock})
	var err error
	l.certificates, err = l.vault.OpenCertificates(context.Background(),
		PKIConfig{URI: daemonURI, DNSNames: []string{"tapseal.example.test"}, IPAddresses: []string{"127.0.0.1"}},
		CertificateOptions{OnChange: func() { l.changes.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	l.listener, err = tls.Listen("tcp", "127.0.0.1:0", l.certificates.ServerTLS("h2"))
	if err != nil {
		t.Fatal(err)
	}
	l.wg.Add(1)
	go l.serve()
	t.Cleanup(func() { _ = l.listener.Close(); l.wg.Wait(); l.certificates.Close() })
	return l
}

func (l *listening) serve() {
	defer l.wg.Done()
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

// client has a certificate of the role for callers signed by Vault.
func (l *listening) client(t *testing.T, name string) (tls.Certificate, string) {
	t.Helper()
	key := newKey(t)
	uri, _ := url.Parse("spiffe://example.test/caller/" + name)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	out := l.s.must("tapseal-pki/sign/tapseal-client", map[string]any{"csr": string(csr)})
	text, _ := out.Data["certificate"].(string)
	leaf, err := parseCertificates([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := out.Data["serial_number"].(string)
	return tls.Certificate{Certificate: [][]byte{leaf[0].Raw}, PrivateKey: key, Leaf: leaf[0]}, serial
}

func (l *listening) dial(c tls.Certificate) (*tls.Conn, error) {
	conn, err := tls.Dial("tcp", l.listener.Addr().String(), &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: l.certificates.ClientCAs(), Certificates: []tls.Certificate{c}, NextProtos: []string{"h2"}, ServerName: "tapseal.example.test",
		Time: l.clock.Now,
	})
	if err != nil {
		return nil, err
	}
	if err := echo(conn); err != nil { // in TLS 1.3 the client learns of a refusal only here
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

func echo(c net.Conn) error {
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("tap")); err != nil {
		return err
	}
	_, err := io.ReadFull(c, make([]byte, 3))
	return err
}

func TestCertificateIsSwappedUnderConnections(t *testing.T) {
	l := listen(t)
	caller, _ := l.client(t, "one")
	conn, err := l.dial(caller)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	before := l.certificates.own.Load().Leaf
	if got := before.URIs[0].String(); got != daemonURI {
		t.Errorf("URI %s", got)
	}
	if before.Subject.CommonName != "" || before.NotAfter.Sub(before.NotBefore) > 25*time.Hour {
		t.Errorf("certificate %v, %v to %v", before.Subject, before.NotBefore, before.NotAfter)
	}
	l.clock.advance(14 * time.Hour) // before two thirds of the life
	if err := echo(conn); err != nil {
		t.Error(err)
	}
	l.clock.advance(4 * time.Hour)
	eventually(t, "another certificate", func() bool {
		l.clock.advance(DefaultRefresh)
		return !l.certificates.own.Load().Leaf.Equal(before)
	})
	if err := echo(conn); err != nil {
		t.Errorf("the running connection was cut: %v", err)
	}
	again, err := l.dial(caller)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ConnectionState().PeerCertificates[0].Equal(before) {
		t.Error("a new connection sees the old certificate")
	}
	if key, ok := l.certificates.own.Load().PrivateKey.(*ecdsa.PrivateKey); !ok || key.PublicKey.Equal(before.PublicKey) {
		t.Error("the key is the old one")
	}
}

func TestRevokedClientIsSeen(t *testing.T) {
	l := listen(t)
	bad, serial := l.client(t, "bad")
	good, _ := l.client(t, "good")
	conn, err := l.dial(bad)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := l.certificates.Revoked(bad.Leaf); err != nil {
		t.Fatalf("before: %v", err)
	}
	l.s.must("tapseal-pki/revoke", map[string]any{"serial_number": serial})
	eventually(t, "the revocation is known", func() bool {
		l.clock.advance(DefaultRefresh)
		return errors.Is(l.certificates.Revoked(bad.Leaf), ErrRevoked)
	})
	if l.changes.Load() == 0 {
		t.Error("nobody was told, so that existing connections would go on")
	}
	if c, err := l.dial(bad); err == nil {
		_ = c.Close()
		t.Error("the revoked client was let in")
	}
	c, err := l.dial(good)
	if err != nil {
		t.Fatalf("the other client: %v", err)
	}
	_ = c.Close()
}

func TestRevocationsGetTooOld(t *testing.T) {
	l := listen(t)
	caller, _ := l.client(t, "one")
	l.s.kill()
	l.clock.advance(30 * time.Minute)
	c, err := l.dial(caller)
	if err != nil {
		t.Fatalf("half an hour without vault: %v", err)
	}
	_ = c.Close()
	l.clock.advance(DefaultCRLMaxAge)
	if err := l.certificates.Revoked(caller.Leaf); !errors.Is(err, ErrRevocationUnknown) || errors.Is(err, ErrRevoked) {
		t.Errorf("error %v", err)
	}
	eventually(t, "the trouble is in the status", func() bool {
		l.clock.advance(DefaultRefresh)
		_, _, problem := l.certificates.Status()
		return errors.Is(problem, ErrAway)
	})
}

// While one authority takes over from another, both are trusted.
func TestAuthoritiesChange(t *testing.T) {
	l := listen(t)
	old, _ := l.client(t, "old")
	out := l.s.must("tapseal-pki/root/rotate/internal", map[string]any{"common_name": "the next authority", "key_type": "ec", "key_bits": 256, "ttl": "8760h"})
	l.s.must("tapseal-pki/root/replace", map[string]any{"default": out.Data["issuer_id"]})
	fresh, _ := l.client(t, "fresh")
	if _, err := l.dial(fresh); err == nil {
		t.Error("the control: the new authority is trusted before it was read")
	}
	eventually(t, "both authorities are known", func() bool {
		l.clock.advance(DefaultRefresh)
		return l.certificates.Revoked(fresh.Leaf) == nil
	})
	for name, c := range map[string]tls.Certificate{"old": old, "fresh": fresh} {
		conn, err := l.dial(c)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = conn.Close()
	}
}

func TestCertificatesFailClosed(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	v := open(t, s.identity("tapseal-daemon"), Options{})
	for name, c := range map[string]PKIConfig{
		"somebody else's URI":  {URI: "spiffe://example.test/caller/one"},
		"another trust domain": {URI: "spiffe://elsewhere.test/tapseal/daemon"},
		"another host":         {URI: daemonURI, DNSNames: []string{"bank.test"}},
		"another role":         {URI: daemonURI, Role: "tapseal-client"},
		"no URI":               {},
		"no such engine":       {URI: daemonURI, Mount: "nothing"},
	} {
		got, err := v.OpenCertificates(context.Background(), c, CertificateOptions{})
		if err == nil {
			got.Close()
			t.Errorf("%s: got one", name)
		}
	}
	hsm := open(t, s.identity("tapseal-hsm"), Options{})
	if got, err := hsm.OpenCertificates(context.Background(), PKIConfig{URI: daemonURI}, CertificateOptions{}); !errors.Is(err, ErrDenied) {
		if err == nil {
			got.Close()
		}
		t.Errorf("the HSM's identity: %v", err)
	}
}

func TestCertificateFiles(t *testing.T) {
	ca := newTestCA(t)
	dir := t.TempDir()
	f := CertificateFiles{ClientCA: filepath.Join(dir, "ca.pem"), CRL: filepath.Join(dir, "crl.pem")}
	f.Certificate, f.Key = ca.files(t)
	writePEM(t, f.ClientCA, "CERTIFICATE", ca.certificate.Raw)
	client := ca.issue(t, newKey(t))
	next := time.Now().Add(48 * time.Hour)
	writePEM(t, f.CRL, "X509 CRL", ca.list(t, 5, next))
	clock := newFakeClock()
	c, err := OpenCertificateFiles(context.Background(), f, CertificateOptions{Options: Options{Clock: clock}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Revoked(client); err != nil {
		t.Errorf("before: %v", err)
	}
	stranger := newTestCA(t)
	if err := c.Revoked(stranger.issue(t, newKey(t))); !errors.Is(err, ErrRevocationUnknown) {
		t.Errorf("another authority of the same name: %v", err)
	}
	writePEM(t, f.CRL, "X509 CRL", ca.list(t, 6, next, client))
	eventually(t, "the new list is read", func() bool { clock.advance(DefaultRefresh); return errors.Is(c.Revoked(client), ErrRevoked) })

	for name, list := range map[string][]byte{
		"an older list":        ca.list(t, 5, next),
		"somebody else's list": stranger.list(t, 7, next),
		"something else":       []byte("list"),
	} {
		writePEM(t, f.CRL, "X509 CRL", list)
		eventually(t, name+" is refused", func() bool {
			clock.advance(DefaultRefresh)
			_, _, problem := c.Status()
			return problem != nil && strings.Contains(problem.Error(), "tls.crl")
		})
		if err := c.Revoked(client); !errors.Is(err, ErrRevoked) {
			t.Errorf("%s brought the client back: %v", name, err)
		}
		writePEM(t, f.CRL, "X509 CRL", ca.list(t, 6, next, client))
		eventually(t, "the right list", func() bool {
			clock.advance(DefaultRefresh)
			_, _, problem := c.Status()
			return problem == nil
		})
	}
	before := c.own.Load().Leaf
	k := newKey(t)
	writePEM(t, f.Certificate, "CERTIFICATE", ca.issue(t, k).Raw) // half of a change is no change
	eventually(t, "the mismatch is seen", func() bool {
		clock.advance(DefaultRefresh)
		_, _, problem := c.Status()
		return problem != nil && strings.Contains(problem.Error(), "tls.key")
	})
	if !c.own.Load().Leaf.Equal(before) {
		t.Error("half of a change was taken")
	}
	writePEM(t, f.Key, "PRIVATE KEY", keyDER(t, k))
	eventually(t, "the new certificate", func() bool { clock.advance(DefaultRefresh); return !c.own.Load().Leaf.Equal(before) })
}
