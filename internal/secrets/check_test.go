package secrets

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestCheckUsesNothingUp(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	c := s.identity("tapseal-hsm")
	for range 2 {
		if err := Check(context.Background(), c, &PINConfig{}, Options{}); err != nil {
			t.Fatalf("with a wrapped secret_id: %v", err)
		}
	}
	open(t, c, Options{}) // it can still be used
	if err := Check(context.Background(), c, &PINConfig{}, Options{}); err != nil {
		t.Errorf("with a token: %v", err)
	}
	if err := Check(context.Background(), c, &PINConfig{Path: "other"}, Options{}); !errors.Is(err, ErrDenied) {
		t.Errorf("a PIN that it may not read: %v", err)
	}
	if err := Check(context.Background(), s.identity("tapseal-daemon"), nil, Options{}); err != nil {
		t.Errorf("the daemon: %v", err)
	}
	none := s.identity("tapseal-hsm")
	none.WrappedSecretID = ""
	if err := Check(context.Background(), none, nil, Options{}); !errors.Is(err, ErrNeedsSecretID) {
		t.Errorf("no secret_id: %v", err)
	}
	used := s.identity("tapseal-hsm")
	if _, err := s.as(readSecret(t, used.WrappedSecretID)).write(context.Background(), "sys/wrapping/unwrap", nil); err != nil {
		t.Fatal(err)
	}
	if err := Check(context.Background(), used, nil, Options{}); !errors.Is(err, ErrStolen) {
		t.Errorf("a used one: %v", err)
	}
	s.kill()
	if err := Check(context.Background(), c, &PINConfig{}, Options{}); !errors.Is(err, ErrAway) {
		t.Errorf("no vault: %v", err)
	}
}

// Whatever bytes are given as certificates or lists: an error or parts, never
// a panic, and a list that is not the authority's is never taken.
func FuzzListsAndCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		ca := newTestCA(t)
		if _, err := newIssuer(ca.certificate, b, nil); err == nil {
			t.Error("a list that the authority did not sign")
		}
		if lists, err := parseLists(b); err == nil && len(lists) == 0 {
			t.Error("no list and no error")
		}
		if all, err := parseCertificates(b); err == nil && len(all) == 0 {
			t.Error("no certificate and no error")
		}
	})
}

func TestBackoffAndJitter(t *testing.T) {
	var b backoff
	last := time.Duration(0)
	for range 20 {
		d := b.wait()
		if d < firstRetry*9/10 || d > lastRetry*11/10 || d < last*8/10 {
			t.Errorf("wait %v after %v", d, last)
		}
		last = d
	}
	if b.reset(); b.wait() > 2*firstRetry {
		t.Error("did not start again")
	}
	different := map[time.Duration]bool{}
	for range 10 {
		different[jitter(time.Hour)] = true
	}
	if len(different) < 2 {
		t.Error("no jitter")
	}
}
