package secrets

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
)

func apply(t *testing.T, a *Admin, c SetupConfig, dry bool) map[string]Change {
	t.Helper()
	plan, err := NewPlan(c)
	if err != nil {
		t.Fatal(err)
	}
	all, err := plan.Apply(context.Background(), a, dry)
	if err != nil {
		t.Fatal(err)
	}
	changes := map[string]Change{}
	for _, w := range all {
		changes[string(w.Kind)+" "+w.Path] = w.Change
	}
	return changes
}

func wantAll(t *testing.T, changes map[string]Change, want Change) {
	t.Helper()
	for path, got := range changes {
		if got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestSetupIsIdempotent(t *testing.T) {
	s := startServer(t)
	a := s.admin()
	c := testSetup
	c.Database = &DatabaseSetup{Grants: []string{`GRANT CONNECT ON DATABASE postgres TO "{{name}}"`}}
	wantAll(t, apply(t, a, c, true), Created)
	wantAll(t, apply(t, a, c, true), Created) // a dry run wrote nothing
	first := apply(t, a, c, false)
	if lists := "role tapseal-pki/config/crl"; first[lists] == Updated { // an engine comes with defaults
		first[lists] = Created
	}
	wantAll(t, first, Created)
	wantAll(t, apply(t, a, c, false), Unchanged)

	s.must("sys/policies/acl/tapseal-daemon", map[string]any{"policy": `path "tapseal/*" { capabilities = ["read"] }`})
	s.must("auth/approle/role/tapseal-hsm", map[string]any{"secret_id_num_uses": 0})
	s.must("tapseal-pki/roles/tapseal-daemon", map[string]any{"allow_any_name": true})
	want := map[string]Change{"policy tapseal-daemon": Updated, "role auth/approle/role/tapseal-hsm": Updated, "role tapseal-pki/roles/tapseal-daemon": Updated}
	for _, dry := range []bool{true, false} {
		for path, got := range apply(t, a, c, dry) {
			if w, ok := want[path]; ok && got != w || !ok && got != Unchanged {
				t.Errorf("dry %v: %s: %s", dry, path, got)
			}
		}
	}
	wantAll(t, apply(t, a, c, false), Unchanged)
}

func TestSetupTouchesNothingElse(t *testing.T) {
	s := startServer(t)
	s.must("sys/mounts/tapseal", map[string]any{"type": "transit"})
	plan, err := NewPlan(testSetup)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Apply(context.Background(), s.admin(), false); !errors.Is(err, errOther) {
		t.Errorf("error %v", err)
	}
}

func TestPlanShowsNoSecret(t *testing.T) {
	const planted = "planted-password-5521"
	c := testSetup
	c.Database = &DatabaseSetup{URL: "postgresql://{{username}}:{{password}}@db/x", Username: "vault", Password: secret.New([]byte(planted))}
	plan, err := NewPlan(c)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := plan.Describe(&text); err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{text.String(), string(asJSON)} {
		if strings.Contains(out, planted) {
			t.Error("the password is shown")
		}
		if !strings.Contains(out, secret.Mask) || !strings.Contains(out, "tapseal/data/hsm/pin") {
			t.Errorf("the description is not one: %s", out)
		}
	}
	written := false // the control: it is in the write itself
	for _, w := range plan.Writes {
		written = written || revealed(w.Data)["password"] == planted
	}
	if !written {
		t.Error("the password would not be written either")
	}
}

func TestSetupRefusesWildcards(t *testing.T) {
	for name, c := range map[string]SetupConfig{
		"no trust domain":         {},
		"wildcard trust domain":   {TrustDomain: "*"},
		"path in trust domain":    {TrustDomain: "a/b"},
		"wildcard in the mount":   {TrustDomain: "a.test", Names: Names{KVMount: "+"}},
		"wildcard in the path":    {TrustDomain: "a.test", Names: Names{PINPath: "hsm/*"}},
		"way out of the path":     {TrustDomain: "a.test", Names: Names{PINPath: "../sys"}},
		"text in the name":        {TrustDomain: "a.test", Names: Names{HSM: "a\" { } path \"*"}},
		"one name for two":        {TrustDomain: "a.test", Names: Names{HSM: "same", Daemon: "same"}},
		"wildcard server name":    {TrustDomain: "a.test", ServerNames: []string{"*.a.test"}},
		"password not in its URL": {TrustDomain: "a.test", Database: &DatabaseSetup{URL: "postgresql://x", Username: "u", Password: secret.New([]byte("p"))}},
	} {
		if _, err := NewPlan(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// What each identity may do, tried with its own token against the server.
func TestPoliciesAreTheLeast(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	s.must("tapseal/data/other", map[string]any{"data": map[string]any{"pin": "x"}})
	s.must("tapseal/data/hsm/pin2", map[string]any{"data": map[string]any{"pin": "x"}})
	clients := map[string]*connection{}
	for _, role := range []string{"tapseal-hsm", "tapseal-daemon"} {
		c := s.identity(role)
		open(t, c, Options{})
		clients[role] = s.as(readSecret(t, c.TokenFile))
	}
	allowed := map[string][]string{
		"tapseal-hsm":    {"read tapseal/data/hsm/pin", "read auth/token/lookup-self", "write auth/token/renew-self"},
		"tapseal-daemon": {"read auth/token/lookup-self", "write auth/token/renew-self", "list tapseal-pki/issuers", "read tapseal-pki/cert/ca_chain", "read tapseal-pki/roles/tapseal-daemon"},
	}
	// The daemon's check asks what its token may do; without paths that is refused.
	asks := map[string]string{"tapseal-daemon": "write sys/capabilities-self"}
	tries := []string{
		"read tapseal/data/hsm/pin", "write tapseal/data/hsm/pin", "read tapseal/metadata/hsm/pin", "list tapseal/metadata/hsm", "list tapseal/metadata",
		"read tapseal/data/hsm/pin2", "read tapseal/data/other", "read tapseal/config", "write tapseal/delete/hsm/pin", "write tapseal/destroy/hsm/pin",
		"read auth/token/lookup-self", "write auth/token/renew-self", "write auth/token/create", "write auth/token/lookup", "list auth/token/accessors",
		"read auth/approle/role/tapseal-hsm", "read auth/approle/role/tapseal-hsm/role-id", "write auth/approle/role/tapseal-hsm/secret-id",
		"write auth/approle/role/tapseal-daemon/secret-id", "list auth/approle/role",
		"read tapseal-pki/roles/tapseal-daemon", "write tapseal-pki/issue/tapseal-daemon", "write tapseal-pki/sign/tapseal-client", "write tapseal-pki/issue/tapseal-client",
		"write tapseal-pki/sign-verbatim", "write tapseal-pki/root/sign-intermediate", "write tapseal-pki/revoke", "list tapseal-pki/certs", "list tapseal-pki/keys",
		"read sys/mounts", "read sys/auth", "list sys/policies/acl", "read sys/policies/acl/tapseal-hsm", "write sys/policies/acl/tapseal-daemon", "write sys/seal",
		"read sys/audit", "write sys/wrapping/wrap", "write sys/capabilities-self", "read cubbyhole/x", "write cubbyhole/x", "write identity/entity", "list identity/entity/id",
		"write sys/leases/revoke", "list sys/leases/lookup", "write sys/tools/random/8",
	}
	public := map[string]bool{"list tapseal-pki/issuers": true, "read tapseal-pki/cert/ca_chain": true}
	for role, c := range clients {
		may := map[string]bool{}
		for _, a := range allowed[role] {
			may[a] = true
			if err := try(c, a); err != nil {
				t.Errorf("%s may not %s: %v", role, a, err)
			}
		}
		for _, a := range tries {
			if may[a] || public[a] {
				continue
			}
			want := ErrDenied
			if asks[role] == a {
				want = ErrRefused
			}
			if err := try(c, a); !errors.Is(err, want) {
				t.Errorf("%s: %s: %v, want %v", role, a, err, want)
			}
		}
	}
	root := s.as(s.root) // the control: the same tries mean something
	for _, a := range []string{"read tapseal/data/hsm/pin2", "read tapseal/metadata/hsm/pin", "list auth/approle/role", "read sys/mounts"} {
		if err := try(root, a); err != nil {
			t.Errorf("root: %s: %v", a, err)
		}
	}
}

func try(c *connection, action string) error {
	verb, path, _ := strings.Cut(action, " ")
	var err error
	switch verb {
	case "read":
		_, err = c.read(context.Background(), path)
	case "list":
		_, err = c.list(context.Background(), path)
	case "write":
		_, err = c.write(context.Background(), path, map[string]any{"data": map[string]any{"pin": "x"}})
	}
	return err
}

// A list that ended would have every client refused, and Vault writes a new one
// only when something is revoked.
func TestRevocationListsOutliveTheCertificates(t *testing.T) {
	s := startServer(t)
	a := s.admin()
	apply(t, a, testSetup, false)
	until := func() time.Time {
		t.Helper()
		answer, err := a.conn.read(t.Context(), "tapseal-pki/issuer/default/crl")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := answer.Data["crl"].(string)
		lists, err := parseLists([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		crl, err := x509.ParseRevocationList(lists[0])
		if err != nil {
			t.Fatal(err)
		}
		return crl.NextUpdate
	}
	if end := until(); time.Until(end) < 9*365*24*time.Hour {
		t.Errorf("the first list ends at %v", end)
	}
	if _, err := a.conn.read(t.Context(), "tapseal-pki/crl/rotate"); err != nil {
		t.Fatal(err)
	}
	if end := until(); time.Until(end) < 9*365*24*time.Hour {
		t.Errorf("the second list ends at %v", end)
	}
}
