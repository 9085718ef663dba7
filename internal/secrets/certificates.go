package secrets

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// An authority gives certificates and says whom to trust. Vault's PKI engine
// is one, files are another.
type authority interface {
	// issue gives a certificate with its key, and when to ask again.
	issue(ctx context.Context) (certificate *tls.Certificate, again time.Time, err error)
	// trust gives authorities and revocations; before is what it gave last.
	trust(ctx context.Context, before *trust) (*trust, error)
}

// CertificateOptions are what an owner of Certificates wants.
type CertificateOptions struct {
	Options
	Refresh   time.Duration // of authorities and revocations; default 30 s
	CRLMaxAge time.Duration // default 24 h
	// OnChange is called after certificates were revoked or authorities
	// changed, from one goroutine. Listeners then look at the certificates
	// of their existing connections again, with Revoked.
	OnChange func()
}

func (o CertificateOptions) withDefaults() CertificateOptions {
	o.Options = o.Options.withDefaults()
	if o.Refresh <= 0 {
		o.Refresh = DefaultRefresh
	}
	if o.CRLMaxAge <= 0 {
		o.CRLMaxAge = DefaultCRLMaxAge
	}
	return o
}

// Certificates keeps one certificate renewed and knows the authorities of the
// other side. New handshakes see the newest; running connections are not
// touched by a renewal.
type Certificates struct {
	authority authority
	options   CertificateOptions
	log       *slog.Logger
	clock     Clock

	own     atomic.Pointer[tls.Certificate]
	trusted atomic.Pointer[trust]

	mu      sync.Mutex // guards what follows
	again   time.Time
	problem error

	stop context.CancelFunc
	done sync.WaitGroup
}

// openCertificates gets the first certificate, authorities and revocations, or
// fails: a listener without them must not start.
func openCertificates(ctx context.Context, a authority, o CertificateOptions) (*Certificates, error) {
	o = o.withDefaults()
	c := &Certificates{authority: a, options: o, log: o.Log, clock: o.Clock}
	if err := c.refreshTrust(ctx); err != nil {
		return nil, fmt.Errorf("getting authorities and revocations: %w", err)
	}
	if err := c.refreshOwn(ctx); err != nil {
		return nil, fmt.Errorf("getting a certificate: %w", err)
	}
	background, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.done.Add(1)
	go c.loop(background)
	return c, nil
}

// Close stops the renewal. The last certificate stays usable.
func (c *Certificates) Close() {
	c.stop()
	c.done.Wait()
}

// GetCertificate is for tls.Config.
func (c *Certificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.own.Load(), nil
}

// GetClientCertificate is for tls.Config.
func (c *Certificates) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.own.Load(), nil
}

// ClientCAs are the authorities now. It is not to be changed.
func (c *Certificates) ClientCAs() *x509.CertPool { return c.trusted.Load().pool }

// Revoked gives nil if the certificate is known not to be revoked, and else
// ErrRevoked or ErrRevocationUnknown.
func (c *Certificates) Revoked(certificate *x509.Certificate) error {
	return c.trusted.Load().check(certificate, c.clock.Now(), c.options.CRLMaxAge)
}

// Standing reports why a chain that was verified in a handshake, leaf first and
// without the authority at its end, would be refused in one now: its authority
// may have been removed since, which Revoked alone cannot tell where nobody has
// a revocation list.
func (c *Certificates) Standing(chain []*x509.Certificate) error {
	t, now := c.trusted.Load(), c.clock.Now()
	if err := t.leadsTo(chain, now); err != nil {
		return err
	}
	for _, certificate := range chain {
		if err := t.check(certificate, now, c.options.CRLMaxAge); err != nil {
			return err
		}
	}
	return nil
}

// Status is when the certificate ends, when revocations were last read, and
// why either could not be renewed.
func (c *Certificates) Status() (notAfter, revocations time.Time, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own.Load().Leaf.NotAfter, c.trusted.Load().readAt, c.problem
}

// ServerTLS is the configuration of a listener that asks every client for a
// certificate and follows every change: TLS 1.3, no session tickets, because
// a resumed session would skip the look at authorities and revocations.
func (c *Certificates) ServerTLS(protocols ...string) *tls.Config {
	base := c.serverConfig(c.trusted.Load(), protocols)
	var last atomic.Pointer[tls.Config]
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		t := c.trusted.Load()
		if known := last.Load(); known != nil && known.ClientCAs == t.pool {
			return known, nil
		}
		fresh := c.serverConfig(t, protocols)
		last.Store(fresh)
		return fresh, nil
	}
	return base
}

func (c *Certificates) serverConfig(t *trust, protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		GetCertificate:         c.GetCertificate,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              t.pool,
		NextProtos:             protocols,
		SessionTicketsDisabled: true,
		Time:                   c.clock.Now,
		VerifyConnection:       c.verifyConnection,
	}
}

// verifyConnection runs after the chain was verified, for every handshake.
func (c *Certificates) verifyConnection(s tls.ConnectionState) error {
	for _, chain := range s.VerifiedChains {
		if c.checkChain(chain) == nil {
			return nil
		}
	}
	if len(s.VerifiedChains) == 0 {
		return errors.New("no verified certificate")
	}
	return c.checkChain(s.VerifiedChains[0])
}

// checkChain looks at everything below the authority that we trust as such.
func (c *Certificates) checkChain(chain []*x509.Certificate) error {
	for _, certificate := range chain[:max(1, len(chain)-1)] {
		if err := c.Revoked(certificate); err != nil {
			return err
		}
	}
	return nil
}

// ClientTLS is the configuration of a client that shows this certificate and
// trusts the same authorities, as of now.
func (c *Certificates) ClientTLS(serverName string) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: c.GetClientCertificate,
		RootCAs:              c.ClientCAs(),
		ServerName:           serverName,
		Time:                 c.clock.Now,
		VerifyConnection:     c.verifyConnection,
	}
}

func (c *Certificates) loop(ctx context.Context) {
	defer c.done.Done()
	var failed backoff
	wait := jitter(c.options.Refresh)
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.clock.After(wait):
		}
		err := c.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(err)
		if err != nil {
			wait = min(failed.wait(), c.options.Refresh)
			continue
		}
		failed.reset()
		wait = jitter(c.options.Refresh)
	}
}

// refresh does both halves, also if the first fails.
func (c *Certificates) refresh(ctx context.Context) error {
	trustErr := c.refreshTrust(ctx)
	if trustErr != nil {
		trustErr = fmt.Errorf("getting authorities and revocations: %w", trustErr)
	}
	if c.clock.Now().Before(c.renewalTime()) {
		return trustErr
	}
	if err := c.refreshOwn(ctx); err != nil {
		return errors.Join(trustErr, fmt.Errorf("getting a certificate: %w", err))
	}
	return trustErr
}

func (c *Certificates) note(err error) {
	c.mu.Lock()
	before := c.problem
	c.problem = err
	c.mu.Unlock()
	switch {
	case err != nil && before == nil:
		c.log.Warn("certificates cannot be refreshed; the present ones stay in use", "error", err, "certificate_ends", c.own.Load().Leaf.NotAfter)
	case err == nil && before != nil:
		c.log.Info("certificates can be refreshed again")
	}
}

func (c *Certificates) renewalTime() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.again
}

func (c *Certificates) refreshTrust(ctx context.Context) error {
	before := c.trusted.Load()
	t, err := c.authority.trust(ctx, before)
	if err != nil {
		return err
	}
	if t.same(before) {
		t.pool = before.pool // handshakes go on with the configuration they have
	}
	c.trusted.Store(t)
	c.logAuthorities(before, t)
	if before != nil && !t.same(before) && c.options.OnChange != nil {
		c.options.OnChange()
	}
	return nil
}

// logAuthorities says whom the listener trusts from now on, if that is news.
func (c *Certificates) logAuthorities(before, now *trust) {
	if before == nil {
		c.log.Info("authorities in use", "sha256", now.fingerprints())
		return
	}
	if added, removed := now.without(before), before.without(now); len(added)+len(removed) > 0 {
		c.log.Warn("authorities changed", "sha256", now.fingerprints(), "added", added, "removed", removed)
	}
}

func (c *Certificates) refreshOwn(ctx context.Context) error {
	certificate, again, err := c.authority.issue(ctx)
	if err != nil {
		return err
	}
	before := c.own.Swap(certificate)
	c.mu.Lock()
	c.again = again
	c.mu.Unlock()
	if before == nil || !before.Leaf.Equal(certificate.Leaf) {
		c.log.Info("certificate in use", "serial", certificate.Leaf.SerialNumber.Text(16), "ends", certificate.Leaf.NotAfter)
	}
	return nil
}
