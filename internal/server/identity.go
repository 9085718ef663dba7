package server

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tapseal/tapseal/internal/authz"
)

// Weakest keys that may speak for somebody.
const (
	minRSABits   = 2048
	minCurveBits = 256
)

// recheckEvery is how often a connection's certificate is looked up again
// among the revoked ones when nothing is known to have changed: word of
// revocations can also get too old.
const recheckEvery = time.Second

// revocations say whether a certificate was revoked, and whether a chain would
// still be taken in a handshake. Any error refuses it.
type revocations interface {
	Revoked(*x509.Certificate) error
	Standing(chain []*x509.Certificate) error
}

// An identity is who a connection's client certificate speaks for, worked out
// once at the handshake.
type identity struct {
	uri   string
	fault error               // why nobody is known by this certificate
	chain []*x509.Certificate // leaf first, without the authority that is trusted as such
	ends  time.Time

	revoked  revocations
	changes  *atomic.Uint64 // grows when something was revoked or an authority changed
	seen     atomic.Uint64  // changes at the last look
	lookedAt atomic.Int64   // Unix nanoseconds
}

// newIdentity reads the certificate of a finished handshake.
func newIdentity(s *tls.ConnectionState, revoked revocations, changes *atomic.Uint64) *identity {
	id := &identity{revoked: revoked, changes: changes}
	if len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
		id.fault = errors.New("there is no verified client certificate")
		return id
	}
	chain := s.VerifiedChains[0]
	id.chain = chain[:max(1, len(chain)-1)]
	id.ends = chain[0].NotAfter
	for _, c := range id.chain {
		if c.NotAfter.Before(id.ends) {
			id.ends = c.NotAfter
		}
	}
	id.uri, id.fault = uriName(chain[0])
	return id
}

// uriName is the certificate's one URI name. With two, two principals could be
// one connection, and which of them acted would be a matter of order.
func uriName(c *x509.Certificate) (string, error) {
	if len(c.URIs) != 1 {
		return "", fmt.Errorf("the client certificate has %d URI names, and must have one", len(c.URIs))
	}
	uri := c.URIs[0].String()
	// A URI is read into parts and put together again, which can give two
	// spellings (of the scheme's case, say) one name. Only the bytes that the
	// authority signed are a name.
	if written, err := writtenURI(c); err != nil || written != uri {
		return "", errors.New("the URI name of the client certificate is not in its normal spelling")
	}
	if err := authz.CheckIdentity(uri); err != nil {
		return "", fmt.Errorf("the URI name of the client certificate %w", err)
	}
	return uri, nil
}

// Of a certificate's extensions: RFC 5280, section 4.2.1.6.
const (
	subjectAltName = "2.5.29.17"
	tagURI         = 6 // uniformResourceIdentifier [6] IA5String
)

// writtenURI is the one URI among the certificate's alternative names, byte by
// byte as it is in there.
func writtenURI(c *x509.Certificate) (string, error) {
	var found []string
	for _, e := range c.Extensions {
		if e.Id.String() != subjectAltName {
			continue
		}
		var names []asn1.RawValue
		if rest, err := asn1.Unmarshal(e.Value, &names); err != nil || len(rest) != 0 {
			return "", errors.New("the alternative names are malformed")
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == tagURI {
				found = append(found, string(n.Bytes))
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d URI names are written", len(found))
	}
	return found[0], nil
}

// standing reports why the certificate is good for nothing now: what was right
// at the handshake may have ended or been revoked since.
func (id *identity) standing(now time.Time) error {
	if id.fault != nil {
		return status.Error(codes.Unauthenticated, id.fault.Error())
	}
	if now.After(id.ends) {
		return status.Error(codes.Unauthenticated, "the client certificate has expired: connect with a new one")
	}
	changes := id.changes.Load()
	if id.seen.Load() == changes && now.UnixNano()-id.lookedAt.Load() < int64(recheckEvery) {
		return nil
	}
	if err := id.look(changes); err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	id.seen.Store(changes)
	id.lookedAt.Store(now.UnixNano())
	return nil
}

// look verifies the whole chain anew after a change; in between, only time
// can have made a difference.
func (id *identity) look(changes uint64) error {
	if id.seen.Load() != changes {
		return id.revoked.Standing(id.chain)
	}
	for _, c := range id.chain {
		if err := id.revoked.Revoked(c); err != nil {
			return err
		}
	}
	return nil
}

// verifyClient is the part of a handshake's checks that crypto/tls leaves
// open. Chain, dates, name constraints and revocation are checked by then.
func verifyClient(s tls.ConnectionState) error {
	if len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
		return errors.New("no verified client certificate")
	}
	leaf := s.VerifiedChains[0][0]
	switch {
	case leaf.IsCA:
		return errors.New("client certificate is one of an authority")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth):
		return errors.New("client certificate does not say that it is for clients (extended key usage)")
	case leaf.KeyUsage != 0 && leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return errors.New("client certificate is not for signing (key usage)")
	}
	var err error
	for _, chain := range s.VerifiedChains {
		if err = strongChain(chain); err == nil {
			return nil
		}
	}
	return err
}

// strongChain refuses keys and signatures that somebody could forge. The root
// is trusted as it is: nothing rests on its own signature.
func strongChain(chain []*x509.Certificate) error {
	for i, c := range chain {
		if !strongKey(c.PublicKey) {
			return fmt.Errorf("certificate %d of the client's chain has a weak key", i+1)
		}
		if i < len(chain)-1 && !strongSignature(c.SignatureAlgorithm) {
			return fmt.Errorf("certificate %d of the client's chain has a weak signature", i+1)
		}
	}
	return nil
}

func strongKey(key any) bool {
	switch k := key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize >= minCurveBits
	case ed25519.PublicKey:
		return true
	}
	return false
}

func strongSignature(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.SHA256WithRSA, x509.SHA384WithRSA, x509.SHA512WithRSA,
		x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS,
		x509.ECDSAWithSHA256, x509.ECDSAWithSHA384, x509.ECDSAWithSHA512, x509.PureEd25519:
		return true
	default:
		return false
	}
}
