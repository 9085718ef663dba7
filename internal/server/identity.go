package server

import (
	"crypto/tls"
	"crypto/x509"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tapseal/tapseal/internal/clientcert"
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
	chain, err := clientcert.Chain(s)
	if err != nil {
		id.fault = err
		return id
	}
	id.chain, id.ends = chain, chain[0].NotAfter
	for _, c := range id.chain {
		if c.NotAfter.Before(id.ends) {
			id.ends = c.NotAfter
		}
	}
	id.uri, id.fault = clientcert.URIName(chain[0])
	return id
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
