package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/keys"
)

const (
	expirySoon     = 30 * 24 * time.Hour
	checkWorkersIn = 3 * time.Second // a replaced worker is back within two
	checkVaultIn   = 10 * time.Second
)

// Levels of a finding.
const (
	LevelError   = "error"
	LevelWarning = "warning"
)

// A Finding is something that Check does not like.
type Finding struct {
	Level   string `json:"level"`
	Key     string `json:"key"` // of the configuration file
	Problem string `json:"problem"`
}

// A KeyState is what the workers say about a key that the assignments name.
type KeyState struct {
	Assignment string `json:"assignment"`
	KeySet     string `json:"key_set"`
	Version    uint32 `json:"key_version"`
	State      string `json:"state"`
}

// A Report is the outcome of Check. OK means that there is no error.
type Report struct {
	OK       bool       `json:"ok"`
	Findings []Finding  `json:"findings"`
	Keys     []KeyState `json:"keys"`
}

func (r *Report) add(level, key, format string, args ...any) {
	r.Findings = append(r.Findings, Finding{level, key, fmt.Sprintf(format, args...)})
}

// Check reads the configuration at path and everything that it points at, and
// asks the workers which keys they serve. It changes nothing.
func Check(ctx context.Context, path string) Report {
	r := Report{Findings: []Finding{}, Keys: []KeyState{}}
	cfg, err := config.LoadDaemon(path)
	if err != nil {
		r.addConfigError(err)
		return r
	}
	now := time.Now()
	if cfg.TLS.Vault.Used() {
		r.checkVault(ctx, &cfg.TLS.Vault)
	} else {
		r.checkTLS(cfg.TLS, now)
		r.checkAuthorities("tls", cfg.TLS.ClientCA, cfg.TLS.CRL, now)
		if cfg.Admin.Listen != "" {
			r.checkAuthorities("admin", cfg.Admin.ClientCA, cfg.Admin.CRL, now)
		}
		if cfg.Metrics.Listen != "" {
			r.checkAuthorities("metrics", cfg.Metrics.ClientCA, cfg.Metrics.CRL, now)
		}
	}
	r.checkPolicy(cfg)
	r.checkDirectory("journal.dir", cfg.Journal.Dir)
	r.checkState(ctx, cfg)
	assignments, err := keys.LoadAssignments(cfg.Assignments)
	if err != nil {
		r.add(LevelError, "assignments", "%v", err)
	}
	r.checkWorkers(ctx, cfg.HSM.SocketDir, assignments)
	r.OK = !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == LevelError })
	return r
}

// addConfigError takes a joined error apart again, one finding for each key.
func (r *Report) addConfigError(err error) {
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) {
		r.add(LevelError, "config", "%v", err)
		return
	}
	for _, e := range joined.Unwrap() {
		var k *config.KeyError
		if errors.As(e, &k) {
			r.add(LevelError, k.Key, "%s", k.Problem)
			continue
		}
		r.add(LevelError, "config", "%v", e)
	}
}

func (r *Report) checkTLS(c config.TLS, now time.Time) {
	key, err := secret.ReadDocument(c.Key)
	if err != nil {
		r.add(LevelError, "tls.key", "%v", err)
	}
	key.Wipe()
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		r.add(LevelError, "tls.certificate", "%v", err)
	} else if pair.Leaf != nil {
		r.checkDates("tls.certificate", pair.Leaf, now)
		r.checkUsage("tls.certificate", pair.Leaf)
	}
}

// checkVault looks whether a start would get an identity at Vault, and with it
// a certificate.
func (r *Report) checkVault(ctx context.Context, v *config.Vault) {
	ctx, cancel := context.WithTimeout(ctx, checkVaultIn)
	defer cancel()
	if err := secrets.Check(ctx, v.Config, nil, secrets.Options{}); err != nil {
		r.add(LevelError, vaultKey(err), "%v", err)
		if errors.Is(err, secrets.ErrAway) || errors.Is(err, secrets.ErrUntrusted) {
			return // nobody to ask about the rest
		}
	}
	for _, f := range secrets.CheckPKI(ctx, v.Config, v.PKIConfig, secrets.Options{}) {
		level := LevelError
		if f.Unknown {
			level = LevelWarning
		}
		r.add(level, "tls.vault."+f.Key, "%s", f.Problem)
	}
}

// vaultKey says which key an answer of Vault is about.
func vaultKey(err error) string {
	switch {
	case errors.Is(err, secrets.ErrUntrusted):
		return "tls.vault.ca_file"
	case strings.Contains(err.Error(), "token_file: "):
		return "tls.vault.token_file"
	case errors.Is(err, secrets.ErrNeedsSecretID), errors.Is(err, secrets.ErrStolen):
		return "tls.vault.wrapped_secret_id"
	case errors.Is(err, secrets.ErrAway):
		return "tls.vault.address"
	}
	return "tls.vault"
}

// checkPolicy reads the policy as a start does, and looks for a row for each
// method that the configured listeners have.
func (r *Report) checkPolicy(cfg *config.Daemon) {
	p, err := authz.LoadFile(cfg.Policy)
	if err != nil {
		var faults *authz.Error
		if !errors.As(err, &faults) {
			r.add(LevelError, "policy", "%v", err)
			return
		}
		for _, f := range faults.Faults {
			r.add(LevelError, "policy", "%s", f)
		}
		return
	}
	if err := p.CoversMethods(offered(cfg)); err != nil {
		r.add(LevelError, "policy", "%v", err)
	}
	for _, w := range p.Warnings() {
		r.add(LevelWarning, "policy", "%s", w)
	}
}

func (r *Report) checkAuthorities(name, path, crl string, now time.Time) {
	key := name + ".client_ca"
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		r.add(LevelError, key, "%v", err)
		return
	}
	var authorities []*x509.Certificate
	n := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			r.add(LevelError, key, "PEM block %d is not a certificate", n+1)
			return
		}
		n++
		authorities = append(authorities, c)
		r.checkDates(key, c, now)
		if !c.IsCA {
			r.add(LevelError, key, "certificate %d is not of an authority", n)
		}
	}
	if n == 0 {
		r.add(LevelError, key, "has no certificate in PEM form")
	}
	if crl != "" {
		r.checkLists(name+".crl", crl, authorities, now)
	}
}

// checkLists wants a list of each authority that has not ended.
func (r *Report) checkLists(key, path string, authorities []*x509.Certificate, now time.Time) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		r.add(LevelError, key, "%v", err)
		return
	}
	var lists []*x509.RevocationList
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		if block.Type != "X509 CRL" || err != nil {
			r.add(LevelError, key, "PEM block %d is not a revocation list", len(lists)+1)
			return
		}
		lists = append(lists, l)
		if !l.NextUpdate.IsZero() && now.After(l.NextUpdate) {
			r.add(LevelError, key, "list %d ended at %s: a client whose revocation is not known is refused", len(lists), l.NextUpdate.UTC().Format(time.RFC3339))
		}
	}
	for i, a := range authorities {
		if !slices.ContainsFunc(lists, func(l *x509.RevocationList) bool { return l.CheckSignatureFrom(a) == nil }) {
			r.add(LevelError, key, "has no list of authority %d", i+1)
		}
	}
}

func (r *Report) checkDates(key string, c *x509.Certificate, now time.Time) {
	switch until := c.NotAfter.UTC().Format(time.RFC3339); {
	case now.Before(c.NotBefore):
		r.add(LevelError, key, "certificate is not valid before %s", c.NotBefore.UTC().Format(time.RFC3339))
	case now.After(c.NotAfter):
		r.add(LevelError, key, "certificate expired at %s", until)
	case now.Add(expirySoon).After(c.NotAfter):
		r.add(LevelWarning, key, "certificate expires at %s", until)
	}
}

func (r *Report) checkUsage(key string, c *x509.Certificate) {
	if len(c.ExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) &&
		!slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		r.add(LevelError, key, "certificate is not for servers (extended key usage)")
	}
}

// checkDirectory looks whether a directory, or the one that it would be made in,
// is there. Opening the journal would change it.
func (r *Report) checkDirectory(key, dir string) {
	info, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		info, err = os.Stat(filepath.Dir(dir))
	}
	switch {
	case err != nil:
		r.add(LevelError, key, "%v", err)
	case !info.IsDir():
		r.add(LevelError, key, "is not a directory")
	}
}

func (r *Report) checkWorkers(ctx context.Context, dir string, a *keys.Assignments) {
	if _, err := os.Stat(dir); err != nil {
		r.add(LevelError, "hsm.socket_dir", "%v", err)
		return
	}
	pool, err := hsm.NewPool(hsm.Options{SocketDir: dir})
	if err != nil {
		r.add(LevelError, "hsm.socket_dir", "%v", err)
		return
	}
	defer pool.Close()
	ctx, cancel := context.WithTimeout(ctx, checkWorkersIn)
	defer cancel()
	for !pool.Ready() {
		select {
		case <-ctx.Done():
			r.add(LevelError, "hsm.socket_dir", "no worker answers: is tapseal-hsm running, and as which user?")
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := pool.Health(ctx); err != nil {
		r.add(LevelError, "hsm.socket_dir", "the canary failed: %v", err)
	}
	if current, _ := pool.SubjectVersions(); current == 0 {
		r.add(LevelError, "hsm.socket_dir", "%v", errNoSubjects)
	}
	if a != nil {
		r.checkKeys(pool, a)
	}
}

func (r *Report) checkKeys(pool *hsm.Pool, a *keys.Assignments) {
	for _, use := range a.KeyUses() {
		k, known := pool.Key(use.KeySet, use.Version)
		name := fmt.Sprintf("%s: key set %s version %d", use.Assignment, use.KeySet, use.Version)
		if !known {
			r.add(LevelError, "assignments", "%s is not served by the workers", name)
			continue
		}
		r.Keys = append(r.Keys, KeyState{use.Assignment, use.KeySet, use.Version, k.State.String()})
		if !k.State.Verifies() {
			r.add(LevelError, "assignments", "%s is %s", name, k.State)
		}
		var unbound []string
		for _, p := range use.Profiles {
			if !k.Serves(p.ID) {
				unbound = append(unbound, p.Name)
			}
		}
		if len(unbound) > 0 {
			r.add(LevelError, "assignments", "%s is not bound to %s", name, strings.Join(unbound, ", "))
		}
	}
}
