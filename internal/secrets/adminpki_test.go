package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"testing"

	"github.com/tapseal/tapseal/internal/secret"
)

// clientRequest asks for a certificate of one URI name.
func clientRequest(t *testing.T, uri string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func TestAdminSignsForClients(t *testing.T) {
	s := startServer(t)
	a := s.admin()
	n := DefaultNames()
	if _, err := a.Authorities(t.Context(), n.PKIMount); !errors.Is(err, ErrNotFound) {
		t.Errorf("authorities before the set-up: %v", err)
	}
	apply(t, a, SetupConfig{TrustDomain: "example.test"}, false)
	authorities, err := a.Authorities(t.Context(), n.PKIMount)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		t.Fatal("no authority")
	}
	for uri, ok := range map[string]bool{
		"spiffe://example.test/caller/a": true, "spiffe://example.test/person/b": true,
		"spiffe://example.test/tapseal/daemon": false, "spiffe://other.test/caller/a": false,
	} {
		text, err := a.SignCertificate(t.Context(), n.PKIMount, n.Client, clientRequest(t, uri))
		if (err == nil) != ok {
			t.Errorf("%s: %v", uri, err)
		}
		if err != nil {
			continue
		}
		leaves, err := parseCertificates(text)
		if err != nil || len(leaves) != 1 || len(leaves[0].URIs) != 1 || leaves[0].URIs[0].String() != uri {
			t.Fatalf("%s: %d certificates, %v", uri, len(leaves), err)
		}
		if _, err := leaves[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

func TestAdminLooksForThePIN(t *testing.T) {
	s := startServer(t)
	a := s.admin()
	has := func(want bool, when string) {
		t.Helper()
		if got, err := a.HasPIN(t.Context(), PINConfig{}); err != nil || got != want {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	has(false, "nothing is mounted")
	apply(t, a, SetupConfig{TrustDomain: "example.test"}, false)
	has(false, "after the set-up")
	put := func() {
		t.Helper()
		if err := a.PutPIN(t.Context(), PINConfig{}, secret.New([]byte(plantedPIN))); err != nil {
			t.Fatal(err)
		}
	}
	put()
	has(true, "written")
	if _, err := a.conn.write(t.Context(), "tapseal/delete/hsm/pin", map[string]any{"versions": []int{1}}); err != nil {
		t.Fatal(err)
	}
	has(false, "deleted")
	put()
	has(true, "written again")
	a.conn.api.SetToken("no-such-token")
	if got, err := a.HasPIN(t.Context(), PINConfig{}); !errors.Is(err, ErrDenied) || got {
		t.Errorf("a bad token: %v, %v", got, err)
	}
}
