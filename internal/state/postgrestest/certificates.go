package postgrestest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// An Authority signs certificates for a test.
type Authority struct {
	CAFile string

	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes one with a file of its certificate.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	a := &Authority{t: t, CAFile: filepath.Join(t.TempDir(), "ca.pem")}
	a.key = newKey(t)
	template := template("test authority", 1)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.CAFile, encode("CERTIFICATE", der), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(name string, serial int64) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// Issue makes a key and a certificate for a common name and 127.0.0.1.
func (a *Authority) Issue(name string) (certificate, key []byte) {
	a.t.Helper()
	k := newKey(a.t)
	template := template(name, 2)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return encode("CERTIFICATE", der), encode("PRIVATE KEY", pkcs8)
}

// Files makes the same as files and gives their paths.
func (a *Authority) Files(name string) (certificate, key string) {
	a.t.Helper()
	dir := a.t.TempDir()
	c, k := a.Issue(name)
	certificate, key = filepath.Join(dir, "client.pem"), filepath.Join(dir, "client.key")
	for path, content := range map[string][]byte{certificate: c, key: k} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return certificate, key
}

// Secure gives the server a certificate of the authority. It asks clients for
// theirs if Authentication says so.
func (c *Cluster) Secure(a *Authority) {
	c.t.Helper()
	cert, key := a.Issue("server")
	ca, err := os.ReadFile(a.CAFile)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("server.pem", string(cert), 0o600)
	c.write("server.key", string(key), 0o600)
	c.write("ca.pem", string(ca), 0o600)
	c.Set("ssl = on",
		"ssl_cert_file = '"+filepath.Join(c.dir, "server.pem")+"'",
		"ssl_key_file = '"+filepath.Join(c.dir, "server.key")+"'",
		"ssl_ca_file = '"+filepath.Join(c.dir, "ca.pem")+"'")
}
