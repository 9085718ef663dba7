package devmode

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/tapseal/tapseal/internal/authz"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

const pemRequest = "CERTIFICATE REQUEST"

// ensureSigned writes the authorities, and a certificate of each actor that
// sign gives, unless it is there, from one of them, and lasts long enough. Keys
// are made here.
func ensureSigned(dir string, d authz.Development, authorities []byte, now time.Time, sign func(request []byte) ([]byte, error)) error {
	dir = filepath.Join(dir, tlsDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making certificates: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return errors.New("making certificates: there is no authority")
	}
	if err := softhsmconfig.ReplaceFile(filepath.Join(dir, caFile), authorities, 0o600); err != nil {
		return err
	}
	for _, a := range actors(d) {
		if a.signedBy(dir, roots, now) {
			continue
		}
		if err := a.request(dir, sign); err != nil {
			return fmt.Errorf("making the certificate of the %s: %w", a.file(), err)
		}
	}
	return nil
}

// signedBy reports whether the actor's certificate is there and good.
func (a actor) signedBy(dir string, roots *x509.CertPool, now time.Time) bool {
	leaf, err := readCertificate(filepath.Join(dir, a.certificate()))
	if err != nil || !keyMatches(filepath.Join(dir, a.key()), leaf) {
		return false
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != a.uri || now.Add(renewalThreshold).After(leaf.NotAfter) {
		return false
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err == nil
}

func (a actor) request(dir string, sign func([]byte) ([]byte, error)) error {
	uri, err := url.Parse(a.uri)
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return err
	}
	signed, err := sign(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: request}))
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, a.key()), pemPrivateKey, der); err != nil {
		return err
	}
	return softhsmconfig.ReplaceFile(filepath.Join(dir, a.certificate()), signed, 0o600)
}
