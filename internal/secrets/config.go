package secrets

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

// Defaults, with reasons.
const (
	// DefaultTimeout is short: a worker that waits for its PIN serves nothing.
	DefaultTimeout = 3 * time.Second
	// DefaultPINMaxAge lets a long weekend night of Vault trouble pass, and no more.
	DefaultPINMaxAge = 24 * time.Hour
	// DefaultRefresh bounds how long a revoked certificate goes on working.
	DefaultRefresh = 30 * time.Second
	// DefaultCRLMaxAge is how old the knowledge of revocations may get while
	// Vault is away, before clients are refused.
	DefaultCRLMaxAge = 24 * time.Hour
)

// Server says where Vault is.
type Server struct {
	Address                string `yaml:"address"`                            // https://host:port
	CAFile                 string `yaml:"ca_file,omitempty"`                  // authorities of its certificate; empty: the system's
	Namespace              string `yaml:"namespace,omitempty"`                // of Vault Enterprise or OpenBao
	AllowPlaintextLoopback bool   `yaml:"allow_plaintext_loopback,omitempty"` // http://127.0.0.1:port, for trials
	TimeoutMS              int    `yaml:"timeout_ms,omitempty"`               // of one request; default 3000
}

// Identity says who we are to Vault.
type Identity struct {
	Mount           string `yaml:"approle_mount,omitempty"`     // default approle
	Role            string `yaml:"role"`                        // name of the AppRole
	RoleID          string `yaml:"role_id"`                     // its role_id: no secret
	WrappedSecretID string `yaml:"wrapped_secret_id,omitempty"` // file with a wrapping token, used once and removed
	TokenFile       string `yaml:"token_file"`                  // where the renewed token is kept, in a directory of this service only
}

// Config is one identity at one Vault.
type Config struct {
	Server   `yaml:",inline"`
	Identity `yaml:",inline"`
}

// Options are what is not configuration.
type Options struct {
	Log   *slog.Logger // default: nowhere
	Clock Clock        // default: the system's
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = systemClock{}
	}
	return o
}

// Validate says what is wrong, by key, without looking at Vault.
func (c Config) Validate() error {
	return errors.Join(c.Server.Validate(), c.Identity.validate())
}

// Validate says what is wrong, by key, without looking at Vault.
func (s Server) Validate() error {
	var errs []error
	if err := s.checkAddress(); err != nil {
		errs = append(errs, fmt.Errorf("address: %w", err))
	}
	if s.TimeoutMS < 0 || s.TimeoutMS > 60_000 {
		errs = append(errs, errors.New("timeout_ms: must be 1 to 60000, or 0 for the default"))
	}
	if _, err := s.tlsConfig(); err != nil {
		errs = append(errs, fmt.Errorf("ca_file: %w", err))
	}
	return errors.Join(errs...)
}

// checkAddress refuses what would send a token in clear or to somewhere else.
func (s Server) checkAddress() error {
	if s.Address == "" {
		return errors.New("is required")
	}
	u, err := url.Parse(s.Address)
	if err != nil || u.Host == "" {
		return errors.New("is not a URL such as https://vault.example:8200")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return errors.New("must be https://host:port and nothing more")
	}
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		ip := net.ParseIP(u.Hostname())
		if s.AllowPlaintextLoopback && ip != nil && ip.IsLoopback() {
			return nil
		}
		return errors.New("must be https (http only to 127.0.0.1 or [::1], with allow_plaintext_loopback: true)")
	}
	return errors.New("must be https")
}

func (s Server) timeout() time.Duration {
	if s.TimeoutMS == 0 {
		return DefaultTimeout
	}
	return time.Duration(s.TimeoutMS) * time.Millisecond
}

func (s Server) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, withoutPath(err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errNoCertificate
	}
	return c, nil
}

// pathPart is what may be put into a path of Vault: nothing that leads to
// another one.
var pathPart = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*$`)

func checkPart(key, value string) error {
	if value == "" {
		return fmt.Errorf("%s: is required", key)
	}
	if !pathPart.MatchString(value) {
		return fmt.Errorf("%s: %q is not a name of letters, digits, '-', '_', '.' and '/' between them", key, value)
	}
	return nil
}

func (i Identity) mount() string {
	if i.Mount == "" {
		return "approle"
	}
	return i.Mount
}

func (i Identity) validate() error {
	errs := []error{checkPart("approle_mount", i.mount()), checkPart("role", i.Role)}
	if i.RoleID == "" {
		errs = append(errs, errors.New("role_id: is required"))
	}
	if i.TokenFile == "" {
		errs = append(errs, errors.New("token_file: is required"))
	}
	if i.TokenFile != "" && i.TokenFile == i.WrappedSecretID {
		errs = append(errs, errors.New("token_file: is the same as wrapped_secret_id"))
	}
	return errors.Join(errs...)
}
