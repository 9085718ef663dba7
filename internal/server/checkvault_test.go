package server

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/vaulttest"
)

// vaultFindings are what the check of one configuration has to say of Vault.
func vaultFindings(t *testing.T, v config.Vault) (found []Finding) {
	t.Helper()
	var r Report
	r.checkVault(context.Background(), &v)
	return r.Findings
}

// TestCheckAsksVaultForTheCertificate: what would keep a start from its
// certificate is said by key, and nothing is used up or issued by the asking.
func TestCheckAsksVaultForTheCertificate(t *testing.T) {
	vault := vaulttest.Start(t)
	vault.Setup()
	dir := t.TempDir()
	v := config.Vault{
		Config:    vault.Identity("tapseal-daemon", dir),
		PKIConfig: secrets.PKIConfig{URI: "spiffe://example.test/tapseal/daemon"},
	}
	before := snapshot(t, dir)
	for range 2 {
		found := vaultFindings(t, v)
		if len(found) != 1 || found[0].Level != LevelWarning || found[0].Key != "tls.vault.pki_role" || !strings.Contains(found[0].Problem, "first login") {
			t.Errorf("before the first login: %+v", found)
		}
	}
	if diff := cmp.Diff(before, snapshot(t, dir)); diff != "" {
		t.Errorf("the check changed something:\n%s", diff)
	}
	identity, err := secrets.Open(t.Context(), v.Config, secrets.Options{})
	if err != nil {
		t.Fatalf("the secret_id was used up: %v", err)
	}
	identity.Close()
	if found := vaultFindings(t, v); len(found) != 0 {
		t.Errorf("a good one: %+v", found)
	}
	for _, c := range []struct {
		name, key, problem string
		spoil              func(v *config.Vault)
	}{
		{"mount", "tls.vault.pki_mount", "no PKI engine", func(v *config.Vault) { v.PKIConfig.Mount = "elsewhere" }},
		{"role", "tls.vault.pki_role", "does not allow update", func(v *config.Vault) { v.PKIConfig.Role = "another" }},
		{"token", "tls.vault.token_file", "owner", func(v *config.Vault) { v.TokenFile = filepath.Join(dir, "x", "\x00") }},
		{"address", "tls.vault.address", "away", func(v *config.Vault) { v.Address = "http://127.0.0.1:1" }},
	} {
		bad := v
		c.spoil(&bad)
		found := vaultFindings(t, bad)
		if len(found) == 0 || found[0].Level != LevelError || found[0].Key != c.key || c.name != "token" && !strings.Contains(found[0].Problem, c.problem) {
			t.Errorf("%s: %+v", c.name, found)
		}
	}
	vault.Deny("tapseal-daemon")
	found := vaultFindings(t, v)
	if len(found) != 1 || found[0].Level != LevelError || found[0].Key != "tls.vault.pki_role" || !strings.Contains(found[0].Problem, "does not allow update") {
		t.Errorf("a policy without rights: %+v", found)
	}
	vault.Kill()
	if found := vaultFindings(t, v); len(found) != 1 || found[0].Key != "tls.vault.address" || found[0].Level != LevelError {
		t.Errorf("no vault: %+v", found)
	}
}
