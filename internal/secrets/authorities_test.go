package secrets

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Without revocation lists a certificate of an unknown authority may be an
// intermediate that a client brings. One of a removed authority is not.
func TestRemovedAuthorityWithoutLists(t *testing.T) {
	leaving, staying := newTestCA(t), newTestCA(t)
	f := CertificateFiles{ClientCA: filepath.Join(t.TempDir(), "ca.pem")}
	f.Certificate, f.Key = staying.files(t)
	writePEM(t, f.ClientCA, "CERTIFICATE", leaving.certificate.Raw, staying.certificate.Raw)
	clock, log, changes := newFakeClock(), &lines{}, atomic.Int64{}
	c, err := OpenCertificateFiles(context.Background(), f, CertificateOptions{
		Options: Options{Clock: clock, Log: log.logger()}, OnChange: func() { changes.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !strings.Contains(log.String(), fingerprint(leaving.certificate)) {
		t.Error("the log does not name the authorities at the start")
	}
	gone := []*x509.Certificate{leaving.issue(t, newKey(t))}
	stays := []*x509.Certificate{staying.issue(t, newKey(t))}
	for name, chain := range map[string][]*x509.Certificate{"leaving": gone, "staying": stays} {
		if err := c.Standing(chain); err != nil {
			t.Errorf("%s, before: %v", name, err)
		}
	}
	writePEM(t, f.ClientCA, "CERTIFICATE", staying.certificate.Raw)
	eventually(t, "the change is told", func() bool { clock.advance(DefaultRefresh); return changes.Load() > 0 })
	if err := c.Standing(gone); !errors.Is(err, ErrRevocationUnknown) {
		t.Errorf("of the removed authority: %v", err)
	}
	if err := c.Standing(stays); err != nil {
		t.Errorf("of the other: %v", err)
	}
	if err := c.Standing(nil); err == nil {
		t.Error("no chain at all is good")
	}
	_, changed, _ := strings.Cut(log.String(), `"authorities changed"`)
	if !strings.Contains(changed, `"removed":["`+fingerprint(leaving.certificate)+`"]`) || !strings.Contains(changed, `"sha256":["`+fingerprint(staying.certificate)+`"]`) {
		t.Errorf("the log does not say who was removed: %s", log.String())
	}
}

// Who can write authorities or revocations decides who is let in.
func TestTrustFilesAreProtected(t *testing.T) {
	ca := newTestCA(t)
	dir := t.TempDir()
	f := CertificateFiles{ClientCA: filepath.Join(dir, "ca.pem"), CRL: filepath.Join(dir, "crl.pem")}
	f.Certificate, f.Key = ca.files(t)
	writePEM(t, f.ClientCA, "CERTIFICATE", ca.certificate.Raw)
	writePEM(t, f.CRL, "X509 CRL", ca.list(t, 1, time.Now().Add(time.Hour)))
	open := func() error {
		c, err := OpenCertificateFiles(context.Background(), f, CertificateOptions{})
		if err == nil {
			c.Close()
		}
		return err
	}
	for key, path := range map[string]string{"tls.client_ca": f.ClientCA, "tls.crl": f.CRL} {
		for mode, good := range map[os.FileMode]bool{0o400: true, 0o644: true, 0o664: false, 0o646: false, 0o620: false} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			err := open()
			if (err == nil) != good || !good && (!strings.Contains(err.Error(), key+": can be written by others") || strings.Contains(err.Error(), dir)) {
				t.Errorf("%s with mode %04o: %v", key, mode, err)
			}
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.ClientCA = dir
	if err := open(); err == nil || !strings.Contains(err.Error(), "tls.client_ca: is not a regular file") {
		t.Errorf("a directory: %v", err)
	}
}

type ownedBy struct {
	os.FileInfo
	uid uint32
}

func (o ownedBy) Sys() any { return &syscall.Stat_t{Uid: o.uid} }

func TestTrustFilesBelongToRootOrUs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	own := uint32(os.Geteuid()) //nolint:gosec // a user id is never negative
	for uid, good := range map[uint32]bool{0: true, own: true, own + 1: false} {
		if err := checkProtected(ownedBy{info, uid}); (err == nil) != good {
			t.Errorf("user %d: %v", uid, err)
		}
	}
}
