package devmode

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tapseal/tapseal/internal/authz"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

// Lifetime of the development certificates, and how long before its end all of
// them are made anew at a start.
const (
	certificateLife  = 365 * 24 * time.Hour
	renewalThreshold = 30 * 24 * time.Hour
	clockSkew        = time.Hour
)

// An actor is one who deals with the service in development mode, known by the
// URI name of a certificate.
type actor struct {
	role string // empty: the caller
	uri  string
}

// file is the beginning of the names of the actor's certificate and key.
func (a actor) file() string {
	if a.role == "" {
		return "client"
	}
	return a.role
}

func (a actor) certificate() string { return a.file() + ".pem" }
func (a actor) key() string         { return a.file() + "-key.pem" }

// actors are all of them: each its own certificate, because no person may be
// two that check each other.
func actors(d authz.Development) []actor {
	return []actor{
		{"", d.Caller},
		{"operator", d.Operator},
		{"security-officer", d.SecurityOfficer},
		{"key-manager", d.KeyManager},
		{"auditor", d.Auditor},
		{monitorRole, d.Monitor},
	}
}

// monitorRole is no role of the policy: a workload that may scrape metrics.
const monitorRole = "monitor"

// people are the identities, as they appear in the journal.
func people() authz.Development {
	const domain = "spiffe://dev.tapseal.test/"
	return authz.Development{
		Caller: domain + "developer", Operator: domain + "operator", SecurityOfficer: domain + "security-officer",
		KeyManager: domain + "key-manager", Auditor: domain + "auditor", Monitor: domain + "monitor",
	}
}

// Files of the development TLS.
const (
	caFile         = "ca.pem"
	serverFile     = "server.pem"
	serverKeyFile  = "server-key.pem"
	pemCertificate = "CERTIFICATE"
	pemPrivateKey  = "PRIVATE KEY"
)

// ensureCertificates makes an authority, a server certificate and one of each
// actor in dir, unless they are there and last long enough. The authority's key
// is forgotten then: nobody can make another certificate later.
func ensureCertificates(dir string, now time.Time) error {
	if certificatesFresh(dir, now) {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making certificates: %w", err)
	}
	if err := makeCertificates(dir, now); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	return nil
}

// certificatesFresh reports whether every file is there, belongs together and
// is valid for long enough. Whatever is wrong, the remedy is to make all anew.
func certificatesFresh(dir string, now time.Time) bool {
	ca, err := readCertificate(filepath.Join(dir, caFile))
	if err != nil {
		return false
	}
	pairs := [][2]string{{serverFile, serverKeyFile}}
	for _, a := range actors(people()) {
		pairs = append(pairs, [2]string{a.certificate(), a.key()})
	}
	for _, pair := range pairs {
		leaf, err := readCertificate(filepath.Join(dir, pair[0]))
		if err != nil || leaf.CheckSignatureFrom(ca) != nil || !keyMatches(filepath.Join(dir, pair[1]), leaf) {
			return false
		}
		if now.Before(leaf.NotBefore) || now.Add(renewalThreshold).After(leaf.NotAfter) {
			return false
		}
	}
	return true
}

func readCertificate(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemCertificate {
		return nil, fmt.Errorf("no certificate in %s", path)
	}
	return x509.ParseCertificate(block.Bytes)
}

func keyMatches(path string, leaf *x509.Certificate) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return false
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return false
	}
	own, ok := key.(*ecdsa.PrivateKey)
	return ok && own.PublicKey.Equal(leaf.PublicKey)
}

func makeCertificates(dir string, now time.Time) error {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	caTemplate, err := template("tapseal development CA", now)
	if err != nil {
		return err
	}
	caTemplate.IsCA, caTemplate.BasicConstraintsValid = true, true
	caTemplate.KeyUsage = x509.KeyUsageCertSign
	ca, err := issue(filepath.Join(dir, caFile), caTemplate, caTemplate, caKey.Public(), caKey)
	if err != nil {
		return err
	}
	server, err := template("tapseald", now)
	if err != nil {
		return err
	}
	server.DNSNames = []string{"localhost"}
	server.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if err := issueLeaf(dir, serverFile, serverKeyFile, server, ca, caKey); err != nil {
		return err
	}
	for _, a := range actors(people()) {
		if err := a.issue(dir, now, ca, caKey); err != nil {
			return err
		}
	}
	return nil
}

func (a actor) issue(dir string, now time.Time, ca *x509.Certificate, caKey crypto.Signer) error {
	client, err := template("tapseal development "+a.file(), now)
	if err != nil {
		return err
	}
	uri, err := url.Parse(a.uri)
	if err != nil {
		return err
	}
	client.URIs = []*url.URL{uri}
	client.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return issueLeaf(dir, a.certificate(), a.key(), client, ca, caKey)
}

func template(name string, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     now.Add(certificateLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}, nil
}

func issueLeaf(dir, certFile, keyFile string, t, ca *x509.Certificate, caKey crypto.Signer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, keyFile), pemPrivateKey, der); err != nil {
		return err
	}
	_, err = issue(filepath.Join(dir, certFile), t, ca, key.Public(), caKey)
	return err
}

func issue(path string, t, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, t, parent, public, signer)
	if err != nil {
		return nil, err
	}
	if err := writePEM(path, pemCertificate, der); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func writePEM(path, kind string, der []byte) error {
	return softhsmconfig.ReplaceFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
