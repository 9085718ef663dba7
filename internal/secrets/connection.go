package secrets

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
)

// A connection talks to one Vault as whoever owns its token.
type connection struct {
	api       *api.Client
	transport *http.Transport
	timeout   time.Duration
}

func newConnection(s Server) (*connection, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	tlsConfig, err := s.tlsConfig()
	if err != nil {
		return nil, err
	}
	forgetEnvironment()
	transport := newTransport(s, tlsConfig)
	client, err := api.NewClient(&api.Config{
		Address:    s.Address,
		HttpClient: &http.Client{Transport: transport, CheckRedirect: noRedirect},
		Timeout:    s.timeout(),
		MaxRetries: 0, // callers have a backoff of their own
		// A redirect would carry the token to an address that nobody configured.
		DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	client.SetWrappingLookupFunc(noWrapping)
	if s.Namespace != "" {
		client.SetNamespace(s.Namespace)
	}
	return &connection{api: client, transport: transport, timeout: s.timeout()}, nil
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// idleLimit ends connections between requests that are minutes apart.
const idleLimit = 30 * time.Second

// newTransport ignores HTTPS_PROXY and its like: a PIN goes to the address in
// the configuration or nowhere.
func newTransport(s Server, c *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                 nil,
		DialContext:           (&net.Dialer{Timeout: s.timeout(), KeepAlive: idleLimit}).DialContext,
		TLSClientConfig:       c,
		TLSHandshakeTimeout:   s.timeout(),
		ResponseHeaderTimeout: s.timeout(),
		IdleConnTimeout:       idleLimit,
		MaxIdleConns:          4,
		ForceAttemptHTTP2:     true,
	}
}

// forgetEnvironment removes VAULT_* from the environment of this process. The
// client library reads an address, a token, headers and "do not verify" from
// it, and a wrong one makes it fail; children would inherit them as well. Only
// the configuration file counts.
func forgetEnvironment() {
	for _, pair := range os.Environ() {
		name, _, _ := strings.Cut(pair, "=")
		if strings.HasPrefix(name, "VAULT_") {
			_ = os.Unsetenv(name)
		}
	}
}

// do runs one request with its own deadline.
func (c *connection) do(ctx context.Context, f func(context.Context) (*api.Secret, error)) (*api.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	s, err := f(ctx)
	return s, classify(err)
}

func (c *connection) read(ctx context.Context, path string) (*api.Secret, error) {
	s, err := c.do(ctx, func(ctx context.Context) (*api.Secret, error) {
		return c.api.Logical().ReadWithContext(ctx, path)
	})
	return found(s, err)
}

func (c *connection) list(ctx context.Context, path string) (*api.Secret, error) {
	s, err := c.do(ctx, func(ctx context.Context) (*api.Secret, error) {
		return c.api.Logical().ListWithContext(ctx, path)
	})
	return found(s, err)
}

// found makes the library's "nil, nil" an error.
func found(s *api.Secret, err error) (*api.Secret, error) {
	if err == nil && s == nil {
		return nil, ErrNotFound
	}
	return s, err
}

// write may have nothing to answer: then the result is nil.
func (c *connection) write(ctx context.Context, path string, data map[string]any) (*api.Secret, error) {
	return c.do(ctx, func(ctx context.Context) (*api.Secret, error) {
		return c.api.Logical().WriteWithContext(ctx, path, data)
	})
}

func (c *connection) close() { c.transport.CloseIdleConnections() }
