package postgres

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tapseal/tapseal/internal/secret"
)

// Defaults of Options.
const (
	defaultReaders        = 4
	defaultTimeout        = 5 * time.Second
	defaultConnectTimeout = 3 * time.Second
	// Connections are replaced now and then, so that rotated credentials and
	// certificates come into use and old ones can be taken away.
	defaultConnectionLife = 15 * time.Minute
	defaultSweep          = time.Second
)

// An Isolation is the level at which commits run.
type Isolation string

// Every commit is right at both levels: it locks what it changes and compares
// versions afterwards. SERIALIZABLE is the default and the stricter test.
const (
	Serializable  Isolation = "serializable"
	ReadCommitted Isolation = "read committed"
)

// begin opens a transaction.
func (i Isolation) begin() string { return "BEGIN ISOLATION LEVEL " + string(i) }

// Options say which database, and as whom.
type Options struct {
	// Connection is a PostgreSQL URL or keyword string; several hosts are tried
	// in order, and only one that takes writes is used. Everything but loopback
	// and Unix sockets needs sslmode=verify-full or verify-ca.
	Connection string
	// Credentials are asked for with every new connection, if not nil. Without a
	// user it is the one of Connection. The password is wiped after use.
	Credentials func(context.Context) (user string, password secret.Secret, err error)
	// Configure may change the configuration of a new connection, if not nil:
	// for certificates that are renewed.
	Configure func(*pgconn.Config) error

	// Instance names this daemon: random, kept over restarts, and used by one
	// process at a time. Open takes the name over; the process that had it
	// before gets ErrBroken.
	Instance [16]byte

	Readers        int           // connections for reading at the same time; 0 is 4. There are up to 3 more
	Isolation      Isolation     // of commits; empty is Serializable
	Timeout        time.Duration // of one operation, besides the caller's context; 0 is 5 s
	ConnectTimeout time.Duration // 0 is 3 s
	ConnectionLife time.Duration // 0 is 15 min
	Sweep          time.Duration // between looks for expired counters; 0 is 1 s, negative is never
	Log            *slog.Logger  // nil is none
}

func (o Options) withDefaults() Options {
	if o.Readers <= 0 {
		o.Readers = defaultReaders
	}
	if o.Isolation == "" {
		o.Isolation = Serializable
	}
	o.Timeout = orDefault(o.Timeout, defaultTimeout)
	o.ConnectTimeout = orDefault(o.ConnectTimeout, defaultConnectTimeout)
	o.ConnectionLife = orDefault(o.ConnectionLife, defaultConnectionLife)
	o.Sweep = orDefault(o.Sweep, defaultSweep)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

// parse checks the options and reads the connection string.
func (o Options) parse() (*pgconn.Config, error) {
	if o.Isolation != Serializable && o.Isolation != ReadCommitted {
		return nil, fmt.Errorf("isolation %q is neither %q nor %q", o.Isolation, Serializable, ReadCommitted)
	}
	if o.Instance == ([16]byte{}) {
		return nil, errors.New("the instance has no name")
	}
	c, err := pgconn.ParseConfig(o.Connection)
	if err != nil {
		return nil, fmt.Errorf("reading the database connection string: %w", err)
	}
	if c.ValidateConnect == nil { // also with one host: it may be a standby
		c.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	c.ConnectTimeout = o.ConnectTimeout
	return c, nil
}

// checkTransport refuses connections that others can read or answer. The
// default of the connection string, sslmode=prefer, is one of them.
func checkTransport(c *pgconn.Config) error {
	if err := checkHost(c.Host, c.TLSConfig); err != nil {
		return err
	}
	for _, f := range c.Fallbacks {
		if err := checkHost(f.Host, f.TLSConfig); err != nil {
			return err
		}
	}
	return nil
}

func checkHost(host string, t *tls.Config) error {
	if filepath.IsAbs(host) || host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return nil
	}
	if t == nil {
		return fmt.Errorf("%w: the connection to %q is not encrypted; use sslmode=verify-full and sslrootcert", ErrUnsafe, host)
	}
	if t.InsecureSkipVerify && t.VerifyPeerCertificate == nil && t.VerifyConnection == nil {
		return fmt.Errorf("%w: the certificate of %q would not be verified; use sslmode=verify-full and sslrootcert", ErrUnsafe, host)
	}
	return nil
}
