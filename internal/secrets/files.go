package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
)

// Files in a directory of secrets.
const (
	PINFile              = "pin"
	DatabaseUserFile     = "database-user"
	DatabasePasswordFile = "database-password"
)

// maxTrustBytes bounds a file of authorities or revocation lists: a list of half
// a million certificates has about 20 MB.
const maxTrustBytes = 64 << 20

// Files is the backend without a Vault, for trials: a directory that nobody
// else may write to, of files with mode 0600 or less that belong to this user
// or root. Anything else is refused. Each question reads the file again.
type Files struct{ dir string }

// OpenFiles checks the directory.
func OpenFiles(dir string) (*Files, error) {
	if err := secret.CheckDirectory(dir); err != nil {
		return nil, fmt.Errorf("directory of secrets: %w", err)
	}
	return &Files{dir: dir}, nil
}

// PIN reads the file "pin". The caller wipes it.
func (f *Files) PIN(context.Context) (secret.Secret, error) {
	return f.read(PINFile, secret.MaxPINBytes)
}

// Credentials reads the files "database-user" and "database-password". They do
// not end. The caller wipes the password.
func (f *Files) Credentials() (Credentials, error) {
	user, err := f.read(DatabaseUserFile, secret.MaxPINBytes)
	if err != nil {
		return Credentials{}, err
	}
	defer user.Wipe()
	password, err := f.read(DatabasePasswordFile, maxTokenBytes)
	if err != nil {
		return Credentials{}, err
	}
	c := Credentials{Password: password}
	user.Use(func(b []byte) { c.Username = string(b) })
	return c, nil
}

func (f *Files) read(name string, maxBytes int) (secret.Secret, error) {
	if err := secret.CheckDirectory(f.dir); err != nil {
		return secret.Secret{}, fmt.Errorf("directory of secrets: %w", err)
	}
	s, err := secret.ReadFile(filepath.Join(f.dir, name), maxBytes)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("secret file %s: %w", name, err)
	}
	return s, nil
}

// PINPath is a source of the PIN in one file. The caller of PIN wipes it.
type PINPath string

// PIN reads the file.
func (p PINPath) PIN(context.Context) (secret.Secret, error) { return secret.ReadPIN(string(p)) }

// CertificateFiles are a certificate and authorities in files, in PEM form.
// They are read again at every refresh, and taken only if all of them fit.
type CertificateFiles struct {
	Certificate string // chain, ours first
	Key         string // mode 0600 or less
	ClientCA    string // authorities of the other side; root's or our own file that nobody else can write
	CRL         string // likewise; revocation lists, one of each authority; empty: nothing is ever revoked
}

// OpenCertificateFiles is Vault.OpenCertificates for files. The error names
// what is wrong by the configuration keys tls.certificate, tls.key,
// tls.client_ca and tls.crl.
func OpenCertificateFiles(ctx context.Context, f CertificateFiles, o CertificateOptions) (*Certificates, error) {
	clock := o.Options.withDefaults().Clock
	return openCertificates(ctx, &certificateFiles{files: f, clock: clock}, o)
}

type certificateFiles struct {
	files CertificateFiles
	clock Clock
}

func (c *certificateFiles) issue(context.Context) (*tls.Certificate, time.Time, error) {
	chain, err := os.ReadFile(c.files.Certificate)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("tls.certificate: %w", withoutPath(err))
	}
	key, err := secret.ReadDocument(c.files.Key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("tls.key: %w", err)
	}
	defer key.Wipe()
	var pair tls.Certificate
	key.Use(func(b []byte) { pair, err = tls.X509KeyPair(chain, b) })
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("tls.certificate, tls.key: %w", err)
	}
	if pair.Leaf == nil {
		return nil, time.Time{}, errors.New("tls.certificate: cannot be read")
	}
	return &pair, c.clock.Now(), nil // ask again at the next refresh
}

func (c *certificateFiles) trust(_ context.Context, before *trust) (*trust, error) {
	text, err := readProtected(c.files.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("tls.client_ca: %w", err)
	}
	authorities, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("tls.client_ca: %w", err)
	}
	issuers, err := c.issuers(authorities, before)
	if err != nil {
		return nil, fmt.Errorf("tls.crl: %w", err)
	}
	return newTrust(issuers, c.clock.Now())
}

func (c *certificateFiles) issuers(authorities []*x509.Certificate, before *trust) ([]issuer, error) {
	issuers := make([]issuer, 0, len(authorities))
	if c.files.CRL == "" {
		for _, a := range authorities {
			issuers = append(issuers, issuer{certificate: a, unlisted: true})
		}
		return issuers, nil
	}
	text, err := readProtected(c.files.CRL)
	if err != nil {
		return nil, err
	}
	lists, err := parseLists(text)
	if err != nil {
		return nil, err
	}
	for _, a := range authorities {
		i, err := listed(a, lists, before)
		if err != nil {
			return nil, err
		}
		issuers = append(issuers, i)
	}
	return issuers, nil
}

// listed finds the list that an authority signed.
func listed(authority *x509.Certificate, lists [][]byte, before *trust) (issuer, error) {
	for _, l := range lists {
		if crl, err := x509.ParseRevocationList(l); err == nil && crl.CheckSignatureFrom(authority) == nil {
			return newIssuer(authority, l, before)
		}
	}
	return issuer{}, fmt.Errorf("has no list of the authority %q", authority.Subject)
}

// readProtected reads a file that nobody but root and this user can change: who
// writes authorities or revocations decides who is let in.
func readProtected(path string) ([]byte, error) {
	// Without waiting for a writer, should it be a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return nil, withoutPath(err)
	}
	if err := checkProtected(info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxTrustBytes+1))
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case len(text) > maxTrustBytes:
		return nil, fmt.Errorf("is longer than %d bytes", maxTrustBytes)
	}
	return text, nil
}

func checkProtected(info fs.FileInfo) error {
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return errors.New("is not a regular file")
	case !ok:
		return errors.New("has no owner that could be checked")
	case owner.Uid != 0 && int64(owner.Uid) != int64(os.Geteuid()):
		return errors.New("belongs to another user: it must be root's or this user's")
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("can be written by others (mode %04o): chmod go-w", info.Mode().Perm())
	}
	return nil
}

// withoutPath keeps the reason of an error: a configuration key says which file.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}
