package secrets

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/tapseal/tapseal/internal/secret"
)

// SetupConfig says what to set up in a Vault for tapseal.
type SetupConfig struct {
	Names       Names          `yaml:"names,omitempty"`
	TrustDomain string         `yaml:"trust_domain"`           // of the URIs in certificates: spiffe://<trust domain>/…
	ServerNames []string       `yaml:"server_names,omitempty"` // DNS names that the daemon's certificate may have
	Database    *DatabaseSetup `yaml:"database,omitempty"`
}

// DatabaseSetup is the connection of Vault's database engine to PostgreSQL.
// With the URL empty the connection is left to an administrator, and only the
// role is written.
type DatabaseSetup struct {
	URL      string        `yaml:"url"` // with {{username}} and {{password}} in it
	Username string        `yaml:"username"`
	Password secret.Secret `yaml:"-"`
	Grants   []string      `yaml:"grants"` // SQL for a new user "{{name}}", after CREATE ROLE
}

// Lifetimes in seconds, with reasons.
const (
	// tokenPeriodSeconds: renewed at a third of it, so that Vault may be away
	// for 80 minutes.
	tokenPeriodSeconds = 2 * 3600
	// secretIDSeconds bounds the way of a secret_id from operator to service.
	secretIDSeconds = 24 * 3600
	// certificateSeconds: a stolen key is good for a day at most.
	certificateSeconds       = 24 * 3600
	clientCertificateSeconds = 90 * 24 * 3600
	authoritySeconds         = 10 * 365 * 24 * 3600
	credentialSeconds        = 3600
	credentialMaxSeconds     = 24 * 3600
)

// A WriteKind says how a write is made idempotent.
type WriteKind string

// Kinds of writes.
const (
	WriteEngine WriteKind = "engine" // a secrets engine at a mount
	WriteLogin  WriteKind = "login"  // a login method at a mount
	WritePolicy WriteKind = "policy"
	WriteRole   WriteKind = "role" // any object that can be read back and compared
	WriteRoot   WriteKind = "root" // a root certificate, unless there is an issuer
)

// A Write is one thing that the set-up puts into Vault.
type Write struct {
	Kind WriteKind      `json:"kind"`
	Path string         `json:"path"`
	Why  string         `json:"why"`
	Data map[string]any `json:"data"` // a secret in it masks itself
}

// A Plan is everything that the set-up writes, in order.
type Plan struct {
	Writes []Write `json:"writes"`
}

// Validate says what is wrong, by key.
func (c SetupConfig) Validate() error {
	errs := []error{c.Names.Validate()}
	if u, err := url.Parse("spiffe://" + c.TrustDomain); err != nil || c.TrustDomain == "" || u.Host != c.TrustDomain || strings.ContainsAny(c.TrustDomain, "*/") {
		errs = append(errs, errors.New("trust_domain: must be a name such as example.org"))
	}
	for _, n := range c.ServerNames {
		if n == "" || strings.ContainsAny(n, "*/ ") {
			errs = append(errs, fmt.Errorf("server_names: %q is not the name of a host", n))
		}
	}
	if d := c.Database; d != nil && d.URL != "" && (d.Username == "" || d.Password.IsZero() || !strings.Contains(d.URL, "{{password}}")) {
		errs = append(errs, errors.New("database: url needs {{username}} and {{password}} in it, and both values"))
	}
	return errors.Join(errs...)
}

// NewPlan says what would be written. It does not talk to Vault.
func NewPlan(c SetupConfig) (Plan, error) {
	if err := c.Validate(); err != nil {
		return Plan{}, err
	}
	n := c.Names.withDefaults()
	p := Plan{Writes: []Write{
		{WriteEngine, n.KVMount, "key-value store of the PIN", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}}},
		{WriteEngine, n.PKIMount, "authority for every certificate", map[string]any{"type": "pki", "config": map[string]any{"max_lease_ttl": fmt.Sprintf("%ds", authoritySeconds)}}},
		{WriteLogin, n.AppRoleMount, "login of services", map[string]any{"type": "approle"}},
	}}
	p.Writes = append(p.Writes, pkiWrites(c, n)...)
	if c.Database != nil {
		p.Writes = append(p.Writes, databaseWrites(c.Database, n)...)
	}
	for _, policy := range Policies(n) {
		p.Writes = append(p.Writes, Write{WritePolicy, policy.Name, "what the " + policy.For + " may do", map[string]any{"policy": policy.HCL}})
	}
	p.Writes = append(p.Writes, appRole(n, n.HSM, "supervisor of tapseal-hsm"), appRole(n, n.Daemon, "tapseald"))
	return p, nil
}

// appRole has secret_ids for one use, and tokens that live as long as they are
// renewed and have one policy.
func appRole(n Names, name, who string) Write {
	return Write{WriteRole, "auth/" + n.AppRoleMount + "/role/" + name, "identity of the " + who, map[string]any{
		"bind_secret_id": true, "secret_id_num_uses": 1, "secret_id_ttl": secretIDSeconds,
		"token_policies": []string{name}, "token_no_default_policy": true, "token_period": tokenPeriodSeconds, "token_num_uses": 0, "token_type": "service",
	}}
}

func pkiWrites(c SetupConfig, n Names) []Write {
	return []Write{
		// Vault writes a list when something is revoked and not when the old
		// one ends, after 72 hours by default: from then on every client would
		// be refused. With auto_rebuild it would not write one at a
		// revocation. How fresh a list is we know from reading it.
		{WriteRole, n.PKIMount + "/config/crl", "revocation lists at once, that do not end by themselves", map[string]any{
			"expiry": fmt.Sprintf("%ds", authoritySeconds), "auto_rebuild": false, "disable": false,
		}},
		{WriteRoot, n.PKIMount, "root certificate, if the engine has no issuer yet; its key stays in Vault", map[string]any{
			"common_name": "tapseal " + c.TrustDomain, "key_type": "ec", "key_bits": 256, "ttl": fmt.Sprintf("%ds", authoritySeconds), "exclude_cn_from_sans": true,
		}},
		{WriteRole, n.PKIMount + "/roles/" + n.Daemon, "certificates of tapseald", certificateRole(
			[]string{"spiffe://" + c.TrustDomain + "/tapseal/daemon", "spiffe://" + c.TrustDomain + "/tapseal/daemon/*"}, c.ServerNames, true, certificateSeconds)},
		{WriteRole, n.PKIMount + "/roles/" + n.Client, "certificates of callers and persons, issued by operators", certificateRole(
			[]string{"spiffe://" + c.TrustDomain + "/caller/*", "spiffe://" + c.TrustDomain + "/person/*"}, nil, false, clientCertificateSeconds)},
	}
}

// certificateRole takes names from the request's alternative names only; the
// common name is never used.
func certificateRole(uris, hosts []string, server bool, seconds int) map[string]any {
	if hosts == nil {
		hosts = []string{}
	}
	return map[string]any{
		"allowed_uri_sans": uris, "allowed_domains": hosts, "allow_bare_domains": len(hosts) > 0, "allow_subdomains": false,
		"allow_glob_domains": false, "allow_any_name": false, "allow_localhost": server, "allow_ip_sans": server, "allow_wildcard_certificates": false,
		"require_cn": false, "use_csr_common_name": false, "use_csr_sans": true,
		"server_flag": server, "client_flag": !server, "key_type": "ec", "key_bits": 256, "key_usage": []string{"DigitalSignature"},
		"ttl": seconds, "max_ttl": seconds, "no_store": false, "generate_lease": false,
	}
}

func databaseWrites(d *DatabaseSetup, n Names) []Write {
	w := []Write{{WriteEngine, n.DatabaseMount, "users of the database", map[string]any{"type": "database"}}}
	if d.URL != "" {
		w = append(w, Write{WriteRole, n.DatabaseMount + "/config/" + n.Daemon, "connection to the database", map[string]any{
			"plugin_name": "postgresql-database-plugin", "connection_url": d.URL, "username": d.Username, "password": d.Password,
			"allowed_roles": []string{n.Daemon},
		}})
	}
	create := append([]string{`CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`}, d.Grants...)
	return append(w, Write{WriteRole, n.DatabaseMount + "/roles/" + n.Daemon, "database users of tapseald", map[string]any{
		"db_name": n.Daemon, "creation_statements": create, "default_ttl": credentialSeconds, "max_ttl": credentialMaxSeconds,
	}})
}

// Describe writes the plan for people.
func (p Plan) Describe(w io.Writer) error {
	for _, write := range p.Writes {
		if _, err := fmt.Fprintf(w, "%-7s %s\n        %s\n", write.Kind, write.Path, write.Why); err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(write.Data)) {
			value := fmt.Sprint(write.Data[k])
			value = strings.ReplaceAll(strings.TrimSpace(value), "\n", "\n          ")
			if _, err := fmt.Fprintf(w, "        %s: %s\n", k, value); err != nil {
				return err
			}
		}
	}
	return nil
}
