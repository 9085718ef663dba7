package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/clientcert"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/listen"
	"github.com/tapseal/tapseal/internal/secrets"
)

// A door is the TLS side of one listener: the daemon's certificate, whom it
// lets in, and what was revoked. All three change while it is open.
type door struct {
	name         string // configuration key of the listener
	certificates *secrets.Certificates
	changes      atomic.Uint64
	records      *refusedJournal // of connections that are refused; nil is none
}

// certificates are where doors get theirs: one Vault for all, or files.
type certificates struct {
	cfg   *config.Daemon
	log   *slog.Logger
	vault *secrets.Vault // nil: files
	doors []*door
}

// openCertificates logs in to Vault if certificates come from there.
func openCertificates(ctx context.Context, cfg *config.Daemon, log *slog.Logger) (*certificates, error) {
	c := &certificates{cfg: cfg, log: log}
	if !cfg.TLS.Vault.Used() {
		return c, nil
	}
	v, err := secrets.Open(ctx, cfg.TLS.Vault.Config, secrets.Options{Log: log})
	if err != nil {
		return nil, configError("tls.vault", err)
	}
	c.vault = v
	return c, nil
}

// door opens one for a listener, named by its configuration key.
func (c *certificates) door(ctx context.Context, name, clientCA, crl string) (*door, error) {
	d := &door{name: name}
	o := secrets.CertificateOptions{
		Options:  secrets.Options{Log: c.log.With("listener", name)},
		Refresh:  c.cfg.Refresh(),
		OnChange: func() { d.changes.Add(1) },
	}
	var err error
	if c.vault != nil {
		d.certificates, err = c.vault.OpenCertificates(ctx, c.cfg.TLS.Vault.PKIConfig, o)
		err = configError("tls.vault", err)
	} else {
		t := c.cfg.TLS
		d.certificates, err = secrets.OpenCertificateFiles(ctx, secrets.CertificateFiles{
			Certificate: t.Certificate, Key: t.Key, ClientCA: clientCA, CRL: crl,
		}, o)
		if name != "tls" { // the files' errors are named for the first listener
			err = configError(name, err)
		}
	}
	if err != nil {
		return nil, err
	}
	c.doors = append(c.doors, d)
	return d, nil
}

// close stops all renewals.
func (c *certificates) close() {
	for _, d := range c.doors {
		d.certificates.Close()
	}
	if c.vault != nil {
		c.vault.Close()
	}
}

// serverTLS is the configuration of the listener.
func (d *door) serverTLS(protocols ...string) *tls.Config {
	return clientcert.ServerTLS(d.certificates, protocols...)
}

// identify is the identity behind a finished handshake.
func (d *door) identify(s *tls.ConnectionState) *identity {
	return newIdentity(s, d.certificates, &d.changes)
}

// ends is when the daemon's own certificate does.
func (d *door) ends() time.Time {
	notAfter, _, _ := d.certificates.Status()
	return notAfter
}

// doorCredentials are gRPC's TLS credentials that also work out, once for each
// connection, whom the certificate speaks for. Who is in no policy gets no
// connection: it could hold a place that somebody else needs.
type doorCredentials struct {
	credentials.TransportCredentials
	door  *door
	live  *authz.Live
	crowd *crowd
	log   *rationed
}

// credentials are for one listener, with so many connections in all.
func (d *door) credentials(live *authz.Live, connections int, log *rationed) credentials.TransportCredentials {
	return &doorCredentials{credentials.NewTLS(d.serverTLS("h2")), d, live, newCrowd(connections), log}
}

// connInfo is gRPC's AuthInfo of our connections.
type connInfo struct {
	credentials.TLSInfo
	id *identity
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *doorCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(errors.New("handshake without TLS"), conn.Close())
	}
	id := c.door.identify(&t.State)
	if err := c.enter(raw, id); err != nil {
		kind := "connection|" + err.Error()
		if errors.Is(err, errCrowded) { // strangers share one kind: there is no end of their names
			kind += "|" + id.uri
		}
		c.door.records.refusedConnection(c.door.name, id, err)
		c.log.warn(kind, "a connection was refused", "caller", id.uri, "cause", err.Error())
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, &connInfo{t, id}, nil
}

var (
	errNoRow   = errors.New("the URI name of the client certificate is not in the policy")
	errCrowded = errors.New("the principal has as many connections as one may have")
)

// enter finds a place for the connection among those of its principal.
func (c *doorCredentials) enter(raw net.Conn, id *identity) error {
	if id.fault != nil {
		return id.fault
	}
	view := c.live.Caller(id.uri)
	who, ok := view.Principal()
	if !ok {
		return errNoRow
	}
	// The place is given back when the socket is closed, which happens however
	// the connection ends; the TLS connection around it may be dropped unclosed.
	socket, ok := raw.(*listen.Conn)
	if !ok {
		return errors.New("the connection did not come through the listener")
	}
	name := who.Name()
	if !c.crowd.enter(name) {
		return errCrowded
	}
	socket.WhenClosed(func() { c.crowd.leave(name) })
	return nil
}

// Clone implements credentials.TransportCredentials.
func (c *doorCredentials) Clone() credentials.TransportCredentials {
	clone := *c
	clone.TransportCredentials = c.TransportCredentials.Clone()
	return &clone
}

// configError names the configuration key of an error.
func configError(key string, err error) error {
	if err == nil {
		return nil
	}
	return &config.KeyError{Key: key, Problem: err.Error()}
}
