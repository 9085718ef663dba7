package secrets

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ErrRevoked means that a certificate was revoked by its authority.
var ErrRevoked = errors.New("the certificate was revoked")

// ErrRevocationUnknown means that nobody can say whether a certificate was
// revoked: the list is too old, or its authority has none here. It is refused
// like a revoked one, and is another thing to do for operators.
var ErrRevocationUnknown = errors.New("whether the certificate was revoked is not known")

var (
	errNoCertificate = errors.New("has no certificate in PEM form")
	errNoList        = errors.New("has no revocation list in PEM form")
)

// An issuer is one authority and what it revoked.
type issuer struct {
	certificate *x509.Certificate
	number      *big.Int  // of the list; it must not go back
	until       time.Time // when the list says that the next one is due
	revoked     map[string]struct{}
	unlisted    bool // has no list, and is not asked for one: files only
}

// A trust is one consistent view of authorities and revocations, never changed.
type trust struct {
	pool    *x509.CertPool
	issuers []issuer
	readAt  time.Time
}

// newIssuer checks that the list is the authority's own and not older than the
// one before: a list that was replayed would bring revoked certificates back.
func newIssuer(certificate *x509.Certificate, list []byte, before *trust) (issuer, error) {
	crl, err := x509.ParseRevocationList(list)
	if err != nil {
		return issuer{}, fmt.Errorf("reading the revocation list: %w", err)
	}
	if err := crl.CheckSignatureFrom(certificate); err != nil {
		return issuer{}, fmt.Errorf("the revocation list is not the authority's: %w", err)
	}
	i := issuer{certificate: certificate, number: crl.Number, until: crl.NextUpdate, revoked: make(map[string]struct{}, len(crl.RevokedCertificateEntries))}
	for _, r := range crl.RevokedCertificateEntries {
		i.revoked[string(r.SerialNumber.Bytes())] = struct{}{}
	}
	if old, ok := before.find(certificate); ok && old.number != nil && (i.number == nil || i.number.Cmp(old.number) < 0) {
		return issuer{}, errors.New("the revocation list is older than the one before")
	}
	return i, nil
}

// find gives the entry of an authority.
func (t *trust) find(certificate *x509.Certificate) (issuer, bool) {
	if t == nil {
		return issuer{}, false
	}
	for _, i := range t.issuers {
		if i.certificate.Equal(certificate) {
			return i, true
		}
	}
	return issuer{}, false
}

// leadsTo verifies a chain, leaf first and without an authority, against the
// authorities that are trusted now. What the leaf may be used for was looked at
// in the handshake.
func (t *trust) leadsTo(chain []*x509.Certificate, now time.Time) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: there is no certificate", ErrRevocationUnknown)
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: t.pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return fmt.Errorf("%w: its chain leads to none of our authorities any more", ErrRevocationUnknown)
	}
	return nil
}

// fingerprints are the SHA-256 of the authorities' certificates.
func (t *trust) fingerprints() []string { return t.without(nil) }

// without gives the fingerprints of the authorities that other does not have.
func (t *trust) without(other *trust) []string {
	if t == nil {
		return nil
	}
	var all []string
	for _, i := range t.issuers {
		if _, known := other.find(i.certificate); !known {
			all = append(all, fmt.Sprintf("%x", sha256.Sum256(i.certificate.Raw)))
		}
	}
	return all
}

// check looks for the certificate's authority and its list.
func (t *trust) check(certificate *x509.Certificate, now time.Time, maxAge time.Duration) error {
	known := false
	for _, i := range t.issuers {
		if !i.issued(certificate) {
			continue
		}
		known = true
		if err := i.check(certificate, now, t.readAt, maxAge); err != nil {
			return err
		}
	}
	if !known && t.listed() {
		return fmt.Errorf("%w: its authority is not one of ours", ErrRevocationUnknown)
	}
	return nil
}

// listed reports whether anybody has a list. Without any, an intermediate that
// a client brings with it needs none either.
func (t *trust) listed() bool {
	for _, i := range t.issuers {
		if !i.unlisted {
			return true
		}
	}
	return false
}

func (i issuer) issued(c *x509.Certificate) bool {
	if !bytes.Equal(c.RawIssuer, i.certificate.RawSubject) {
		return false
	}
	return len(c.AuthorityKeyId) == 0 || len(i.certificate.SubjectKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, i.certificate.SubjectKeyId)
}

func (i issuer) check(c *x509.Certificate, now, readAt time.Time, maxAge time.Duration) error {
	if _, ok := i.revoked[string(c.SerialNumber.Bytes())]; ok {
		return ErrRevoked
	}
	switch {
	case i.unlisted:
		return nil
	case now.Sub(readAt) > maxAge:
		return fmt.Errorf("%w: the list was last read %v ago", ErrRevocationUnknown, now.Sub(readAt).Round(time.Second))
	case !i.until.IsZero() && now.After(i.until):
		return fmt.Errorf("%w: the list ended %v ago", ErrRevocationUnknown, now.Sub(i.until).Round(time.Second))
	}
	return nil
}

// same reports whether two views would answer alike.
func (t *trust) same(other *trust) bool {
	if other == nil || len(t.issuers) != len(other.issuers) {
		return false
	}
	for _, i := range t.issuers {
		o, ok := other.find(i.certificate)
		if !ok || len(o.revoked) != len(i.revoked) || !sameNumber(o.number, i.number) {
			return false
		}
	}
	return true
}

func sameNumber(a, b *big.Int) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Cmp(b) == 0
}

func newTrust(issuers []issuer, now time.Time) (*trust, error) {
	if len(issuers) == 0 {
		return nil, errors.New("there is no authority")
	}
	t := &trust{pool: x509.NewCertPool(), issuers: issuers, readAt: now}
	for _, i := range issuers {
		t.pool.AddCert(i.certificate)
	}
	return t, nil
}

// parseCertificates reads all of a PEM text; anything else in it is an error.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errNoCertificate
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errNoCertificate
	}
	return all, nil
}

// parseLists reads all of a PEM text; anything else in it is an error.
func parseLists(text []byte) (lists [][]byte, err error) {
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "X509 CRL" {
			return nil, errNoList
		}
		lists = append(lists, block.Bytes)
	}
	if len(lists) == 0 {
		return nil, errNoList
	}
	return lists, nil
}
