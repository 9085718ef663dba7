// Package clientcert says which client certificates a listener takes beyond what
// crypto/tls checks, and whom one names. Every listener of every process asks
// the same, so that there is no weaker door.
package clientcert

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

	"github.com/tapseal/tapseal/internal/authz"
)

// Weakest keys that may speak for somebody.
const (
	minRSABits   = 2048
	minCurveBits = 256
)

// Chain is the verified chain of a finished handshake, leaf first and without
// the authority that is trusted as such, so never empty.
func Chain(s *tls.ConnectionState) ([]*x509.Certificate, error) {
	if len(s.VerifiedChains) == 0 || len(s.VerifiedChains[0]) == 0 {
		return nil, errors.New("there is no verified client certificate")
	}
	chain := s.VerifiedChains[0]
	return chain[:max(1, len(chain)-1)], nil
}

// URIName is the certificate's one URI name. With two, two principals could be
// one connection, and which of them acted would be a matter of order.
func URIName(c *x509.Certificate) (string, error) {
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

// Verify is the part of a handshake's checks that crypto/tls leaves
// open. Chain, dates, name constraints and revocation are checked by then.
func Verify(s tls.ConnectionState) error {
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
