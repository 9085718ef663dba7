package secrets

import (
	"os"
	"strings"
	"testing"
	"time"
)

// replacePolicy gives the daemon the shipped policy with a change.
func replacePolicy(t *testing.T, s *server, change func(hcl string) string) {
	t.Helper()
	for _, p := range Policies(DefaultNames()) {
		if p.Name != DefaultNames().Daemon {
			continue
		}
		plan := Plan{Writes: []Write{{WritePolicy, p.Name, "test", map[string]any{"policy": change(p.HCL)}}}}
		if _, err := plan.Apply(t.Context(), s.admin(), false); err != nil {
			t.Fatal(err)
		}
	}
}

// without takes the block of one path out of a policy.
func without(t *testing.T, path string) func(string) string {
	return func(hcl string) string {
		before, rest, found := strings.Cut(hcl, `path "`+path+`"`)
		_, after, closed := strings.Cut(rest, "}\n")
		if !found || !closed {
			t.Fatalf("no %s in the policy", path)
		}
		return before + after
	}
}

func TestCheckPKI(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	n := DefaultNames()
	fresh, known := s.identity(n.Daemon), s.identity(n.Daemon)
	open(t, known, Options{}) // leaves a token
	wrapped, token := readFile(t, fresh.WrappedSecretID), readFile(t, known.TokenFile)
	same := func(hcl string) string { return hcl }
	sign, role := n.PKIMount+"/sign/"+n.Daemon, n.PKIMount+"/roles/"+n.Daemon
	for name, c := range map[string]struct {
		identity     Config
		pki          PKIConfig
		policy       func(string) string
		key, problem string // none: nothing is found
		unknown      bool
	}{
		"good":                     {identity: known, policy: same},
		"no login yet":             {identity: fresh, policy: same, key: "pki_role", problem: "after the first login", unknown: true},
		"no such mount":            {identity: known, pki: PKIConfig{Mount: "nowhere"}, policy: same, key: "pki_mount", problem: `no PKI engine at "nowhere"`},
		"no such mount, no login":  {identity: fresh, pki: PKIConfig{Mount: "nowhere"}, policy: same, key: "pki_mount", problem: `no PKI engine at "nowhere"`},
		"mount of another kind":    {identity: known, pki: PKIConfig{Mount: n.KVMount}, policy: same, key: "pki_mount", problem: "no PKI engine"},
		"role of somebody else":    {identity: known, pki: PKIConfig{Role: n.Client}, policy: same, key: "pki_role", problem: "does not allow update"},
		"role that is not there":   {identity: known, pki: PKIConfig{Role: "absent"}, policy: allowing(n, "absent"), key: "pki_role", problem: `no role "absent"`},
		"policy without sign":      {identity: known, policy: without(t, sign), key: "pki_role", problem: "does not allow update at " + sign},
		"policy that may not ask":  {identity: known, policy: without(t, "sys/capabilities-self")},
		"policy that may not read": {identity: known, policy: without(t, role)},
		"may not ask, no role": {identity: known, pki: PKIConfig{Role: "absent"}, policy: func(hcl string) string {
			return allowing(n, "absent")(without(t, "sys/capabilities-self")(hcl))
		}, key: "pki_role", problem: `no role "absent"`},
		"may not ask, may not sign": {identity: known, policy: func(hcl string) string {
			return without(t, sign)(without(t, "sys/capabilities-self")(hcl))
		}, key: "pki_role", problem: "does not allow update at " + sign},
		"authority that has ended":  {identity: known, policy: same, key: "pki_mount", problem: "expired"},
		"authority yet to be valid": {identity: known, policy: same, key: "pki_mount", problem: "not valid before"},
	} {
		t.Run(name, func(t *testing.T) {
			replacePolicy(t, s, c.policy)
			o := Options{}
			switch name {
			case "authority that has ended":
				o.Clock = frozen(time.Now().AddDate(100, 0, 0))
			case "authority yet to be valid":
				o.Clock = frozen(time.Now().AddDate(-1, 0, 0))
			}
			c.pki.URI = "spiffe://example.test/tapseal/daemon"
			found := CheckPKI(t.Context(), c.identity, c.pki, o)
			if c.key == "" {
				if len(found) != 0 {
					t.Errorf("%+v", found)
				}
				return
			}
			ok := false
			for _, f := range found {
				ok = ok || f.Key == c.key && strings.Contains(f.Problem, c.problem) && f.Unknown == c.unknown
			}
			if !ok {
				t.Errorf("want %s: %s in %+v", c.key, c.problem, found)
			}
		})
	}
	if readFile(t, fresh.WrappedSecretID) != wrapped || readFile(t, known.TokenFile) != token {
		t.Error("the check changed what is on disk")
	}
	if issued := s.issued(); issued != 1 { // the authority's own
		t.Errorf("%d certificates are issued", issued)
	}
	s.kill()
	found := CheckPKI(t.Context(), known, PKIConfig{URI: "spiffe://example.test/tapseal/daemon"}, Options{})
	if len(found) != 1 || found[0].Key != "address" || found[0].Unknown {
		t.Errorf("no vault: %+v", found)
	}
}

// allowing lets the daemon use another role.
func allowing(n Names, role string) func(string) string {
	return func(hcl string) string {
		return hcl + "\npath \"" + n.PKIMount + "/sign/" + role + "\" { capabilities = [\"update\"] }\n" +
			"path \"" + n.PKIMount + "/roles/" + role + "\" { capabilities = [\"read\"] }\n"
	}
}

// frozen is a time that stands still.
type frozen time.Time

func (f frozen) Now() time.Time                     { return time.Time(f) }
func (frozen) After(time.Duration) <-chan time.Time { return nil }

// issued is the number of certificates that the engine keeps.
func (s *server) issued() int {
	s.t.Helper()
	answer, err := s.as(s.root).list(s.t.Context(), DefaultNames().PKIMount+"/certs")
	if err != nil {
		s.t.Fatal(err)
	}
	keys, _ := answer.Data["keys"].([]any)
	return len(keys)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
