package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/vaulttest"
)

func vaultSetupRun(stdin string, args ...string) result {
	var out, errOut bytes.Buffer
	status := run(append([]string{"vault-setup"}, args...), streams{in: strings.NewReader(stdin), out: &out, err: &errOut})
	return result{status: status, stdout: out.String(), stderr: errOut.String()}
}

// writePrivate gives the path of a file with mode 0600.
func writePrivate(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestVaultSetupIsDry(t *testing.T) {
	r := vaultSetupRun("", "--trust-domain", "example.test", "--server-name", "tapseal.example.test")
	if r.status != statusValid {
		t.Fatalf("status %d: %s", r.status, r.stderr)
	}
	for _, want := range []string{
		"nothing was written", `path "tapseal/data/hsm/pin"`, "auth/approle/role/tapseal-hsm", "tapseal.example.test",
		"vault write -wrap-ttl=600s -field=wrapping_token -f auth/approle/role/tapseal-daemon/secret-id", "vault kv put -mount=tapseal hsm/pin",
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in the plan", want)
		}
	}

	v := vaulttest.Start(t)
	token := writePrivate(t, v.Root)
	for range 2 { // a dry run changes nothing
		r := vaultSetupRun("", "--trust-domain", "example.test", "--address", v.URL, "--allow-plaintext-loopback", "--token-file", token)
		if r.status != statusValid || strings.Contains(r.stderr, "unchanged") || !strings.Contains(r.stderr, "created   policy tapseal-hsm") {
			t.Errorf("status %d: %s", r.status, r.stderr)
		}
	}
}

func TestVaultSetupApplies(t *testing.T) {
	v := vaulttest.Start(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	config := writePrivate(t, "address: "+v.URL+"\nallow_plaintext_loopback: true\ntrust_domain: example.test\nnames: {hsm: our-hsm}\n")
	apply := func(more ...string) (out vaultSetupResult) {
		t.Helper()
		r := vaultSetupRun(v.Root+"\n", append([]string{"--config", config, "--token-file", "-", "--apply", "--json"}, more...)...)
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.status != statusValid || !out.Applied {
			t.Fatalf("status %d, %v: %s%s", r.status, err, r.stdout, r.stderr)
		}
		if strings.Contains(r.stdout+r.stderr, v.Root) {
			t.Error("the token is shown")
		}
		return out
	}
	first := apply("--issue-secret-ids", dir)
	for _, c := range apply().Changes {
		if c.Change != secrets.Unchanged {
			t.Errorf("second time: %+v", c)
		}
	}
	if r := vaultSetupRun(v.Root, "--config", config, "--token-file", "-", "--apply", "--issue-secret-ids", dir); r.status != statusOther || !strings.Contains(r.stderr, "exists") {
		t.Errorf("a second secret_id over the first: status %d: %s", r.status, r.stderr)
	}
	// The identities work.
	for _, s := range first.Services {
		info, err := os.Stat(s.WrappedFile)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%s: %v, %v", s.Service, info, err)
		}
		opened, err := secrets.Open(context.Background(), secrets.Config{Server: v.Server(), Identity: secrets.Identity{
			Role: s.Role, RoleID: s.RoleID, WrappedSecretID: s.WrappedFile, TokenFile: filepath.Join(dir, s.Service),
		}}, secrets.Options{})
		if err != nil {
			t.Fatalf("%s: %v", s.Service, err)
		}
		opened.Close()
	}
	if first.Services[0].Role != "our-hsm" {
		t.Errorf("roles: %+v", first.Services)
	}
}

func TestVaultSetupRefuses(t *testing.T) {
	t.Setenv("VAULT_TOKEN", "from-the-environment")
	t.Setenv("VAULT_ADDR", "http://192.0.2.1:8200")
	open := writePrivate(t, "token")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	base := []string{"--trust-domain", "example.test"}
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"apply without a token":   {append(base, "--apply"), "--apply needs --token-file"},
		"secret_ids without":      {append(base, "--issue-secret-ids", "/tmp"), "needs --apply"},
		"token that others read":  {append(base, "--apply", "--token-file", open, "--address", "https://127.0.0.1:1"), "mode is 0644"},
		"no token on the input":   {append(base, "--apply", "--token-file", "-", "--address", "https://127.0.0.1:1"), "no token on standard input"},
		"no address":              {append(base, "--apply", "--token-file", writePrivate(t, "x")), "address: is required"},
		"plain text":              {append(base, "--token-file", writePrivate(t, "x"), "--address", "http://127.0.0.1:1"), "must be https"},
		"nobody there":            {append(base, "--token-file", writePrivate(t, "x"), "--address", "https://127.0.0.1:1"), "vault is away"},
		"no trust domain":         {nil, "trust_domain"},
		"unknown key":             {[]string{"--config", writePrivate(t, "token: x\n")}, `"token"`},
		"password, no database":   {append(base, "--config", writePrivate(t, "database_password_file: x\n")), "there is no database"},
		"endless wrapping":        {append(base, "--wrap-ttl", "100h"), "--wrap-ttl"},
		"directory for everybody": {append(base, "--apply", "--token-file", writePrivate(t, "x"), "--issue-secret-ids", "/tmp"), "others may write"},
	} {
		r := vaultSetupRun("", tc.args...)
		if r.status != statusOther || !strings.Contains(r.stderr, tc.want) {
			t.Errorf("%s: status %d, want %q: %s", name, r.status, tc.want, r.stderr)
		}
	}
	v := vaulttest.Start(t)
	r := vaultSetupRun("no-such-token", append(base, "--address", v.URL, "--allow-plaintext-loopback", "--token-file", "-", "--apply", "--json")...)
	if r.status != statusOther || !strings.Contains(r.stdout, "vault denied it") || strings.Contains(r.stdout, "no-such-token") {
		t.Errorf("a bad token: status %d: %s%s", r.status, r.stdout, r.stderr)
	}
}
