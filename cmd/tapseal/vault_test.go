package main

import (
	"context"
	"encoding/json"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/vaulttest"
)

// startVault is a core with a certificate, and the file of its administrator's
// token.
func startVault(t *testing.T) (v *vaulttest.Server, flags []string) {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	v = vaulttest.Start(t, "-tls-out", ca)
	v.CAFile = ca
	return v, []string{"--vault-address", v.URL, "--vault-ca", ca, "--vault-token-file", writePrivate(t, v.Root)}
}

// pinInVault reads the PIN as an administrator, and where it is.
func pinInVault(t *testing.T, v *vaulttest.Server, dir string) string {
	t.Helper()
	c, err := supervisor.LoadConfig(filepath.Join(dir, "hsm.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.PINFile != "" || c.Vault == nil {
		t.Fatalf("hsm.yaml: pin_file %q, vault %v", c.PINFile, c.Vault)
	}
	r, err := http.NewRequest(http.MethodGet, v.URL+"/v1/"+c.Vault.PINConfig.Mount+"/data/"+c.Vault.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", v.Root)
	answer, err := v.HTTPClient().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	var found struct {
		Data struct{ Data struct{ PIN string } }
	}
	if err := json.NewDecoder(answer.Body).Decode(&found); err != nil || len(found.Data.Data.PIN) != 32 {
		t.Fatalf("%s: a PIN of %d digits, %v", answer.Status, len(found.Data.Data.PIN), err)
	}
	return found.Data.Data.PIN
}

// mustNotBeInFiles looks for a secret in every file of a directory.
func mustNotBeInFiles(t *testing.T, dir, what string, secret needles) {
	t.Helper()
	searched := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched++
		if found := secret.in(data); len(found) > 0 {
			t.Errorf("%s is in %s %s", what, path, found)
		}
		return nil
	})
	if err != nil || searched < 10 {
		t.Errorf("%d files were searched: %v", searched, err)
	}
}

// recycleAll replaces every worker and waits for it.
func recycleAll(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := filepath.Join(dir, "run")
	if err := supervisor.QueryRecycle(ctx, run); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "recycled workers", time.Minute, func() bool {
		st, err := supervisor.QueryStatus(ctx, run)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range st.Workers {
			if w.Recycles == 0 || w.PID == 0 {
				return false
			}
		}
		return true
	})
}

// TestDevelopmentWithVault goes from a Vault with nothing in it to a verified
// tap, and then takes Vault away.
func TestDevelopmentWithVault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	v, flags := startVault(t)
	d := mustStart(t, dir, flags...)
	defer mustStop(t, d)
	if !d.Made {
		t.Error("no token was made")
	}
	mustBeValid(t, d.Context)
	pin, root := formsOf([]byte(pinInVault(t, v, dir))), formsOf([]byte(v.Root))
	if _, err := os.Stat(filepath.Join(dir, "pin")); !os.IsNotExist(err) {
		t.Errorf("there is a PIN file: %v", err)
	}
	for _, name := range []string{"tls/server.pem", "tls/server-key.pem", "state/wrapped-secret-id", "daemon/wrapped-secret-id"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
	if r := tapseal(t, d.Context, "", "status"); r.status != 0 {
		t.Errorf("an operator with a certificate of Vault: %s%s", r.stdout, r.stderr)
	}

	v.Kill()
	recycleAll(t, dir)
	mustBeValid(t, d.Context)
	mustNotBeInFiles(t, dir, "the PIN", pin)
	mustNotBeInFiles(t, dir, "the administrator's token", root)
	if os.Geteuid() == 0 {
		for what, control := range map[string]struct {
			secret needles
			pid    int
		}{"the PIN in the supervisor": {pin, lastSupervisor(t, dir)}, "the token in this process": {root, os.Getpid()}} {
			if found, _, err := control.secret.memory(control.pid); err != nil || len(found) == 0 {
				t.Errorf("the control: %s is not found: %v", what, err)
			}
		}
	}
	for what, secret := range map[string]needles{"the PIN": pin, "the administrator's token": root} {
		if found := secret.in([]byte(d.stderr.String())); len(found) > 0 {
			t.Errorf("%s was printed %s", what, found)
		}
		if os.Geteuid() != 0 {
			continue // the process forbids it, see TestPINIsNowhereElse
		}
		if found, _, err := secret.memory(d.cmd.Process.Pid); err != nil || len(found) > 0 {
			t.Errorf("%s is in the daemon's memory %s: %v", what, found, err)
		}
	}
}

// TestDevelopmentWithAnotherVault starts again on a directory: with the same
// Vault the token is reused; with one that has nothing in it, it cannot be.
func TestDevelopmentWithAnotherVault(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	first, flags := startVault(t)
	d := mustStart(t, dir, flags...)
	mustStop(t, d)
	pin := pinInVault(t, first, dir)
	assignments := filepath.Join(dir, "assignments.yaml")
	text, err := os.ReadFile(assignments)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(assignments, append([]byte("# mine\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}

	d = mustStart(t, dir, flags...)
	if d.Made || pinInVault(t, first, dir) != pin {
		t.Error("the same Vault: a new token or PIN")
	}
	mustBeValid(t, d.Context)
	mustStop(t, d)
	first.Kill()

	second, flags := startVault(t)
	d = mustStart(t, dir, flags...)
	defer mustStop(t, d)
	if !d.Made || pinInVault(t, second, dir) == pin {
		t.Error("another Vault: the token or the PIN of the first")
	}
	mustBeValid(t, d.Context)
	if text, err := os.ReadFile(assignments); err != nil || !strings.HasPrefix(string(text), "# mine\n") {
		t.Errorf("what the developer changed is gone: %v", err)
	}
}

// TestDevelopmentVaultRefusals says no before anything is made.
func TestDevelopmentVaultRefusals(t *testing.T) {
	v, flags := startVault(t)
	open := writePrivate(t, v.Root)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(token string) []string {
		return []string{flags[0], flags[1], flags[2], flags[3], "--vault-token-file", token}
	}
	plain := filepath.Join(t.TempDir(), "plain")
	mustStop(t, mustStart(t, plain))
	vaulted := filepath.Join(t.TempDir(), "vaulted")
	mustStop(t, mustStart(t, vaulted, flags...))
	for name, tt := range map[string]struct {
		dir  string
		args []string
		want string
	}{
		"made without Vault":      {plain, flags, "made without Vault"},
		"made with Vault":         {vaulted, nil, "made with Vault"},
		"no token":                {"", flags[:4], "needs --vault-token-file"},
		"token that others read":  {"", with(open), "mode is 0644"},
		"token that is not known": {"", with(writePrivate(t, "no-such-token")), "vault denied it"},
		"no address":              {"", flags[2:], "--vault-address is missing"},
		"another authority":       {"", append(flags[:2:2], flags[4:]...), "not trusted"},
		"plain text":              {"", []string{"--vault-address", "http://192.0.2.1:8200", "--vault-token-file", flags[5]}, "must be https"},
		"nobody there":            {"", []string{"--vault-address", "https://127.0.0.1:1", "--vault-token-file", flags[5]}, "vault is away"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.dir == "" {
				tt.dir = filepath.Join(t.TempDir(), "dev")
			}
			out, err := devCommand(tt.dir, tt.args...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), tt.want) || strings.Contains(string(out), v.Root) {
				t.Errorf("%v, want %q: %s", err, tt.want, out)
			}
		})
	}
}
