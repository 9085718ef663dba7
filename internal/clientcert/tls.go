package clientcert

import (
	"crypto/tls"
	"sync/atomic"

	"github.com/tapseal/tapseal/internal/secrets"
)

// ServerTLS is the configuration of a listener: that of its certificates, and
// Verify. Each handshake gets the one of its moment.
func ServerTLS(c *secrets.Certificates, protocols ...string) *tls.Config {
	base := c.ServerTLS(protocols...)
	current := base.GetConfigForClient
	type pair struct{ from, to *tls.Config }
	var last atomic.Pointer[pair]
	base.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		from, err := current(h)
		if err != nil {
			return nil, err
		}
		if p := last.Load(); p != nil && p.from == from {
			return p.to, nil
		}
		to := stricter(from)
		last.Store(&pair{from, to})
		return to, nil
	}
	return base
}

// stricter adds our checks of the client's certificate.
func stricter(c *tls.Config) *tls.Config {
	c = c.Clone()
	before := c.VerifyConnection
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := before(s); err != nil {
			return err
		}
		return Verify(s)
	}
	return c
}
