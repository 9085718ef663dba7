package supervisor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/clientcert"
	bounded "github.com/tapseal/tapseal/internal/listen"
	"github.com/tapseal/tapseal/internal/ration"
	"github.com/tapseal/tapseal/internal/secrets"
)

// scrapeConnections bounds the connections to metrics_listen: this process has
// more important things to do.
const scrapeConnections = 16

// MetricsTLS is who the metrics' listener is and whom it believes. All files are
// read again every RefreshSec. They are files also where the PIN comes from
// Vault: the supervisor's identity there can read the PIN and nothing else.
type MetricsTLS struct {
	Certificate string `yaml:"certificate,omitempty"` // PEM, leaf first
	Key         string `yaml:"key,omitempty"`         // PEM, mode 0600 or less
	ClientCA    string `yaml:"client_ca,omitempty"`   // PEM, authorities of those who scrape
	CRL         string `yaml:"crl,omitempty"`         // PEM, a revocation list of each of them; empty: none
	RefreshSec  int    `yaml:"refresh_sec,omitempty"` // seconds between looks at the files, 0 is 30
}

// Bounds of MetricsTLS.RefreshSec.
const (
	defaultRefreshSec = 30
	maxRefreshSec     = 3600
)

func (m *MetricsTLS) paths() []*string { return []*string{&m.Certificate, &m.Key, &m.ClientCA, &m.CRL} }

// checkMetrics looks at the keys of the metrics and opens their files.
func (c *Config) checkMetrics() []Problem {
	if c.Metrics == "" {
		if c.MetricsTLS != (MetricsTLS{}) || len(c.MetricsAllow) > 0 {
			return []Problem{{"metrics_listen", "is required with metrics_tls and metrics_allow"}}
		}
		return nil
	}
	var found []Problem
	if _, _, err := net.SplitHostPort(c.Metrics); err != nil {
		found = append(found, Problem{"metrics_listen", "must be host:port"})
	}
	found = append(found, checkAllowed(c.MetricsAllow)...)
	return append(found, c.MetricsTLS.check()...)
}

// checkAllowed wants names that a certificate can have, so that a misspelt one
// is not found out by who is not let in.
func checkAllowed(names []string) []Problem {
	if len(names) == 0 {
		return []Problem{{"metrics_allow", "is required with metrics_listen: the URI names of the client certificates that may ask, such as spiffe://example.org/prometheus"}}
	}
	var found []Problem
	for i, name := range names {
		if err := authz.CheckIdentity(name); err != nil {
			found = append(found, Problem{"metrics_allow", fmt.Sprintf("%q %v", name, err)})
		}
		if slices.Contains(names[:i], name) {
			found = append(found, Problem{"metrics_allow", fmt.Sprintf("%q is listed twice", name)})
		}
	}
	return found
}

func (m *MetricsTLS) check() []Problem {
	var found []Problem
	if m.RefreshSec < 0 || m.RefreshSec > maxRefreshSec {
		found = append(found, Problem{"metrics_tls.refresh_sec", fmt.Sprintf("must be 1 to %d, or 0 for %d", maxRefreshSec, defaultRefreshSec)})
	}
	for _, v := range []struct{ key, path string }{
		{"certificate", m.Certificate}, {"key", m.Key}, {"client_ca", m.ClientCA},
	} {
		if v.path == "" {
			found = append(found, Problem{"metrics_tls." + v.key, "is required with metrics_listen"})
		}
	}
	if len(found) > 0 {
		return found
	}
	certificates, err := m.open(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return []Problem{metricsProblem(err)}
	}
	certificates.Close()
	return nil
}

func (m *MetricsTLS) open(log *slog.Logger, clock secrets.Clock) (*secrets.Certificates, error) {
	refresh := m.RefreshSec
	if refresh == 0 {
		refresh = defaultRefreshSec
	}
	return secrets.OpenCertificateFiles(context.Background(),
		secrets.CertificateFiles{Certificate: m.Certificate, Key: m.Key, ClientCA: m.ClientCA, CRL: m.CRL},
		secrets.CertificateOptions{
			Options: secrets.Options{Log: log.With("listener", "metrics"), Clock: clock},
			Refresh: time.Duration(refresh) * time.Second,
		})
}

// metricsProblem names our keys: the error has those of the daemon's tls block.
func metricsProblem(err error) Problem {
	_, text, named := strings.Cut(err.Error(), "tls.")
	key, problem, cut := strings.Cut(text, ": ")
	if !named || !cut {
		return Problem{"metrics_tls", err.Error()}
	}
	key, _, _ = strings.Cut(key, ",") // of a pair that does not fit together
	return Problem{"metrics_tls." + key, problem}
}

// checkMetricsDates is for Check only: a certificate that has ended keeps
// Prometheus out, and must not keep the workers from starting.
func (c *Config) checkMetricsDates(now time.Time) []Problem {
	if c.Metrics == "" {
		return nil
	}
	certificates, err := c.MetricsTLS.open(slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return []Problem{metricsProblem(err)}
	}
	defer certificates.Close()
	own, err := certificates.GetCertificate(nil)
	if err != nil {
		return []Problem{metricsProblem(err)}
	}
	wrong := ""
	switch leaf := own.Leaf; {
	case now.Before(leaf.NotBefore):
		wrong = "is not valid before " + leaf.NotBefore.UTC().Format(time.RFC3339)
	case now.After(leaf.NotAfter):
		wrong = "expired at " + leaf.NotAfter.UTC().Format(time.RFC3339)
	case !forServers(leaf):
		wrong = "is not for servers (extended key usage)"
	}
	if wrong == "" {
		return nil
	}
	return []Problem{{"metrics_tls.certificate", wrong}}
}

func forServers(c *x509.Certificate) bool {
	return len(c.ExtKeyUsage) == 0 || slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) ||
		slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny)
}

// A scrape is the listener of the metrics: HTTPS, for the clients that the
// configuration lists by the URI names of their certificates.
type scrape struct {
	certificates *secrets.Certificates
	allow        []string
	log          *ration.Log
}

// listenMetrics serves on metrics_listen until stop.
func (s *Supervisor) listenMetrics() (stop func(), addr string, err error) {
	certificates, err := s.c.MetricsTLS.open(s.log, s.options.Clock)
	if err != nil {
		return nil, "", metricsProblem(err)
	}
	l, err := net.Listen("tcp", s.c.Metrics)
	if err != nil {
		certificates.Close()
		return nil, "", Problem{"metrics_listen", err.Error()}
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newMetrics(s))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	sc := &scrape{certificates: certificates, allow: s.c.MetricsAllow, log: ration.New(s.log)}
	srv := sc.server(mux)
	secure := tls.NewListener(bounded.Limit(l, scrapeConnections, sc.full), clientcert.ServerTLS(certificates, "http/1.1"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(secure); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("serving metrics failed", "error", fmt.Errorf("metrics: %w", err))
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close()
		}
		<-done
		certificates.Close()
	}, l.Addr().String(), nil
}

func (sc *scrape) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           sc.guarded(h),
		ReadHeaderTimeout: 5 * time.Second, // of the handshake, too
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(sc, "", 0),
	}
}

// Write implements io.Writer for what net/http has to say: who fails in the
// handshake must not be able to fill the disk.
func (sc *scrape) Write(line []byte) (int, error) {
	sc.log.Warn("connection", "a connection for metrics was refused", "cause", strings.TrimSpace(string(line)))
	return len(line), nil
}

func (sc *scrape) full() {
	sc.log.Warn("full", "the listener of the metrics has as many connections as it may: others wait")
}

// guarded looks at the client before anything of its request, each time: its
// certificate may have ended or been revoked since the handshake.
func (sc *scrape) guarded(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, code, err := sc.admit(r.TLS)
		if err != nil {
			sc.log.Warn(fmt.Sprintf("request|%d", code), "metrics were refused", "caller", name, "cause", err.Error())
			http.Error(w, err.Error(), code)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// admit asks who is there. The code is of the answer to somebody refused.
func (sc *scrape) admit(s *tls.ConnectionState) (name string, code int, err error) {
	if s == nil {
		return "", http.StatusUnauthorized, errors.New("there is no client certificate")
	}
	chain, err := clientcert.Chain(s)
	if err != nil {
		return "", http.StatusUnauthorized, err
	}
	if name, err = clientcert.URIName(chain[0]); err != nil {
		return "", http.StatusUnauthorized, err
	}
	if err := sc.certificates.Standing(chain); err != nil {
		return name, http.StatusUnauthorized, err
	}
	if !slices.Contains(sc.allow, name) {
		return name, http.StatusForbidden, errors.New("the URI name of the client certificate is not in metrics_allow")
	}
	return name, 0, nil
}
