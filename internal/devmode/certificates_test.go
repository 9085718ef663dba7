package devmode

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCertificates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	now := time.Now()
	if err := ensureCertificates(dir, now); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(read(t, dir, caFile))) {
		t.Fatal("no authority")
	}
	check := func(name, keyName, host string, usage x509.ExtKeyUsage) *x509.Certificate {
		t.Helper()
		if _, err := tls.LoadX509KeyPair(filepath.Join(dir, name), filepath.Join(dir, keyName)); err != nil {
			t.Error(err)
		}
		leaf, err := readCertificate(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage},
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return leaf
	}
	for _, host := range []string{"localhost", "127.0.0.1", "::1"} {
		check(serverFile, serverKeyFile, host, x509.ExtKeyUsageServerAuth)
	}
	names := []string{caFile, serverFile, serverKeyFile}
	for _, a := range actors(people()) {
		leaf := check(a.certificate(), a.key(), "", x509.ExtKeyUsageClientAuth)
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != a.uri {
			t.Errorf("identity %v", leaf.URIs)
		}
		names = append(names, a.certificate(), a.key())
	}
	for _, name := range names {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("%s has mode %o", name, got)
		}
	}
}

// TestCertificatesAreRenewed says when they are made anew, and when not.
func TestCertificatesAreRenewed(t *testing.T) {
	now := time.Now()
	tests := map[string]struct {
		later  time.Duration
		damage func(t *testing.T, dir string)
		renew  bool
	}{
		"fresh":           {later: 0},
		"near its end":    {later: certificateLife - renewalThreshold + time.Hour, renew: true},
		"before that":     {later: certificateLife - renewalThreshold - time.Hour},
		"over":            {later: certificateLife + time.Hour, renew: true},
		"clock went back": {later: -2 * clockSkew, renew: true},
		"key missing":     {damage: remove(serverKeyFile), renew: true},
		"authority gone":  {damage: remove(caFile), renew: true},
		"keys swapped": {damage: func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "client-key.pem"), []byte(read(t, dir, serverKeyFile)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, renew: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tls")
			if err := ensureCertificates(dir, now); err != nil {
				t.Fatal(err)
			}
			before := read(t, dir, serverFile)
			if tt.damage != nil {
				tt.damage(t, dir)
			}
			at := now.Add(tt.later)
			if err := ensureCertificates(dir, at); err != nil {
				t.Fatal(err)
			}
			if renewed := read(t, dir, serverFile) != before; renewed != tt.renew {
				t.Errorf("renewed: %v, want %v", renewed, tt.renew)
			}
			if !certificatesFresh(dir, at) {
				t.Error("not fresh afterwards")
			}
		})
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}
