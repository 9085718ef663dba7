package supervisor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

const scraperURI = "spiffe://test/prometheus"

// An issuer makes certificates of every kind for the metrics.
type issuer struct {
	t      *testing.T
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{t: t, serial: 1}
	made := i.issue(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	})
	i.cert, i.key = made.Leaf, made.PrivateKey.(*ecdsa.PrivateKey)
	return i
}

func (i *issuer) issue(change func(*x509.Certificate)) tls.Certificate {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.serial++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(i.serial), Subject: pkix.Name{CommonName: "test"}, KeyUsage: x509.KeyUsageDigitalSignature,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	change(c)
	parent, parentKey := i.cert, i.key
	if parent == nil {
		parent, parentKey = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		i.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (i *issuer) server() tls.Certificate {
	return i.issue(func(c *x509.Certificate) {
		c.IPAddresses, c.ExtKeyUsage = []net.IP{net.IPv4(127, 0, 0, 1)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

func (i *issuer) client(names ...string) tls.Certificate {
	return i.issue(func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		for _, name := range names {
			u, err := url.Parse(name)
			if err != nil {
				i.t.Fatal(err)
			}
			c.URIs = append(c.URIs, u)
		}
	})
}

// list revokes certificates.
func (i *issuer) list(number int64, revoked ...*x509.Certificate) []byte {
	i.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, c := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, i.cert, i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	return der
}

// writePEM replaces a file in one step.
func (r *rig) writePEM(name, kind string, der []byte) {
	r.t.Helper()
	r.write(name+".new", string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	if err := os.Rename(r.path(name+".new"), r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

// withMetrics gives the rig a listener whose files an issuer made.
func (r *rig) withMetrics(i *issuer) {
	r.t.Helper()
	r.writePEM("ca.pem", "CERTIFICATE", i.cert.Raw)
	r.writePEM("revoked.pem", "X509 CRL", i.list(1))
	r.writeServer(i.server())
	r.c.Metrics, r.c.MetricsAllow = "127.0.0.1:0", []string{"spiffe://test/other", scraperURI}
	r.c.MetricsTLS = MetricsTLS{
		Certificate: r.path("metrics.pem"), Key: r.path("metrics-key.pem"), ClientCA: r.path("ca.pem"), CRL: r.path("revoked.pem"), RefreshSec: 1,
	}
}

func (r *rig) writeServer(c tls.Certificate) {
	r.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		r.t.Fatal(err)
	}
	r.writePEM("metrics-key.pem", "PRIVATE KEY", der)
	r.writePEM("metrics.pem", "CERTIFICATE", c.Certificate[0])
}

// serveMetrics serves them until the test ends.
func (r *rig) serveMetrics() (address string) {
	r.t.Helper()
	s, err := New(r.c, r.options())
	if err != nil {
		r.t.Fatal(err)
	}
	stop, address, err := s.listenMetrics()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { stop(); s.Close() })
	return address
}

// scraper is a client that shows a certificate, or none, also where the server
// did not ask for one of its authority.
func (r *rig) scraper(i *issuer, change func(*tls.Config), show ...tls.Certificate) *http.Client {
	r.t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(i.cert)
	c := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if len(show) == 0 {
			return &tls.Certificate{}, nil
		}
		return &show[0], nil
	}}
	if change != nil {
		change(c)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c}}
	r.t.Cleanup(client.CloseIdleConnections)
	return client
}

// scraped is the status and the text, or 0 where there was no answer.
func scraped(c *http.Client, address string) (int, string) {
	resp, err := c.Get("https://" + address + "/metrics")
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(text)
}

func TestMetricsAreForWhomTheConfigurationLists(t *testing.T) {
	r, i, other := newRig(t, nil), newIssuer(t), newIssuer(t)
	r.withMetrics(i)
	revoked := i.client(scraperURI)
	r.writePEM("revoked.pem", "X509 CRL", i.list(2, revoked.Leaf))
	address := r.serveMetrics()
	tls12 := func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }
	for name, c := range map[string]struct {
		client *http.Client
		want   int
	}{
		"no certificate":       {r.scraper(i, nil), 0},
		"of another authority": {r.scraper(i, nil, other.client(scraperURI)), 0},
		"revoked":              {r.scraper(i, nil, revoked), 0},
		"TLS 1.2":              {r.scraper(i, tls12, i.client(scraperURI)), 0},
		"for servers":          {r.scraper(i, nil, i.server()), 0},
		"not listed":           {r.scraper(i, nil, i.client("spiffe://test/somebody")), http.StatusForbidden},
		"longer than a listed": {r.scraper(i, nil, i.client(scraperURI+"/x")), http.StatusForbidden},
		"no name":              {r.scraper(i, nil, i.client()), http.StatusUnauthorized},
		"two names":            {r.scraper(i, nil, i.client(scraperURI, "spiffe://test/somebody")), http.StatusUnauthorized},
		"listed":               {r.scraper(i, nil, i.client(scraperURI)), http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			got, text := scraped(c.client, address)
			if got != c.want {
				t.Errorf("status %d, want %d: %s", got, c.want, text)
			}
			if got != http.StatusOK && strings.Contains(text, "tapseal_hsm_") {
				t.Error("the metrics are in the answer all the same")
			}
		})
	}
	_, text := scraped(r.scraper(i, nil, i.client(scraperURI)), address)
	for _, name := range []string{
		"tapseal_hsm_login_stopped 0", "tapseal_hsm_pin_problem 0", `tapseal_hsm_logins_total{result="refused"} 0`,
		`tapseal_hsm_worker_up{worker="1"} 0`, "tapseal_hsm_worker_resident_bytes", "tapseal_hsm_worker_recycle_overdue",
	} {
		if !strings.Contains(text, name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
	inClear(t, address)
	if log := r.read("log"); !strings.Contains(log, "metrics were refused") || !strings.Contains(log, "a connection for metrics was refused") {
		t.Errorf("refusals left no trace: %s", log)
	}
}

func inClear(t *testing.T, address string) {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + address + "/metrics")
	if err != nil {
		return
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode == http.StatusOK || strings.Contains(string(text), "tapseal_hsm_") {
		t.Errorf("in clear: %d", resp.StatusCode)
	}
}

// What is revoked or replaced takes effect without a restart: for a connection
// that is open, and for the listener's own certificate.
func TestMetricsFollowTheirFiles(t *testing.T) {
	r, i := newRig(t, nil), newIssuer(t)
	r.withMetrics(i)
	address := r.serveMetrics()
	leaves, stays := i.client(scraperURI), i.client(scraperURI)
	client := r.scraper(i, nil, leaves)
	if got, text := scraped(client, address); got != http.StatusOK {
		t.Fatalf("status %d: %s", got, text)
	}
	next := i.server()
	r.writeServer(next)
	r.writePEM("revoked.pem", "X509 CRL", i.list(2, leaves.Leaf))
	shown := func() *x509.Certificate {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // only looked at
		if err != nil {
			return nil
		}
		defer conn.Close() //nolint:errcheck // only looked at
		return conn.ConnectionState().PeerCertificates[0]
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got, _ := scraped(client, address)
		if c := shown(); got == http.StatusUnauthorized && c != nil && c.Equal(next.Leaf) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("status %d of a revoked client, or the old certificate", got)
		}
	}
	if got, text := scraped(r.scraper(i, nil, stays), address); got != http.StatusOK {
		t.Errorf("the other one: %d: %s", got, text)
	}
}

func TestValidateMetrics(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	for _, tc := range []struct {
		key, problem string
		spoil        func(t *testing.T, r *rig)
	}{
		{"metrics_listen", "host:port", func(_ *testing.T, r *rig) { r.c.Metrics = "here" }},
		{"metrics_listen", "is required", func(_ *testing.T, r *rig) { r.c.Metrics = "" }},
		{"metrics_allow", "is required", func(_ *testing.T, r *rig) { r.c.MetricsAllow = nil }},
		{"metrics_allow", "full URI", func(_ *testing.T, r *rig) { r.c.MetricsAllow[0] = "prometheus" }},
		{"metrics_allow", "must not hold", func(_ *testing.T, r *rig) { r.c.MetricsAllow[0] = "spiffe://test/*" }},
		{"metrics_allow", "twice", func(_ *testing.T, r *rig) { r.c.MetricsAllow[0] = scraperURI }},
		{"metrics_tls.refresh_sec", "must be", func(_ *testing.T, r *rig) { r.c.MetricsTLS.RefreshSec = -1 }},
		{"metrics_tls.certificate", "is required", func(_ *testing.T, r *rig) { r.c.MetricsTLS.Certificate = "" }},
		{"metrics_tls.client_ca", "is required", func(_ *testing.T, r *rig) { r.c.MetricsTLS.ClientCA = "" }},
		{"metrics_tls.key", "mode", func(t *testing.T, r *rig) { chmod(t, r.path("metrics-key.pem"), 0o644) }},
		{"metrics_tls.certificate", "does not match", func(_ *testing.T, r *rig) {
			r.writePEM("metrics.pem", "CERTIFICATE", other.server().Certificate[0])
		}},
		{"metrics_tls.client_ca", "written by others", func(t *testing.T, r *rig) { chmod(t, r.path("ca.pem"), 0o666) }},
		{"metrics_tls.client_ca", "no such file", func(_ *testing.T, r *rig) { r.c.MetricsTLS.ClientCA = r.path("nothing") }},
		{"metrics_tls.crl", "no list of the authority", func(_ *testing.T, r *rig) { r.writePEM("revoked.pem", "X509 CRL", other.list(1)) }},
	} {
		r := newRig(t, nil)
		r.withMetrics(i)
		r.c.fillDefaults()
		if problems := r.c.Validate(); len(problems) != 0 {
			t.Fatalf("a good configuration has problems: %v", problems)
		}
		tc.spoil(t, r)
		problems := r.c.Validate()
		if len(problems) != 1 || problems[0].Key != tc.key || !strings.Contains(problems[0].Problem, tc.problem) {
			t.Errorf("want one problem with %s, %q, got %v", tc.key, tc.problem, problems)
		}
	}
}

// A certificate that has ended is for the check to tell; the workers start.
func TestCheckTellsOfAnEndedCertificate(t *testing.T) {
	r, i := newRig(t, nil), newIssuer(t)
	r.withMetrics(i)
	r.writeServer(i.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	if err := os.Mkdir(r.c.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	report := Check(context.Background(), r.c, r.options())
	found := false
	for _, p := range report.Problems {
		found = found || p.Key == "metrics_tls.certificate" && strings.Contains(p.Problem, "expired")
	}
	if !found || report.Login != LoginOK {
		t.Errorf("%+v", report)
	}
	r.serveMetrics()
}
