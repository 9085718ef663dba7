package secrets

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tapseal/tapseal/internal/secret"
)

func TestLoginUsesTheSecretIDOnceAndThenTheToken(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	c := s.identity("tapseal-hsm")
	v := open(t, c, Options{})
	if _, err := os.Stat(c.WrappedSecretID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the wrapping token is still there: %v", err)
	}
	info, err := os.Stat(c.TokenFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("token file: %v %v", info, err)
	}
	if got := v.Status(); got.State != StateReady || got.TokenExpires.IsZero() {
		t.Errorf("status %+v", got)
	}
	wantPIN(t, newPIN(t, v), plantedPIN)
	before := readSecret(t, c.TokenFile)

	again := open(t, c, Options{}) // a restart, without a new secret_id
	wantPIN(t, newPIN(t, again), plantedPIN)
	if readSecret(t, c.TokenFile) != before {
		t.Error("the restart made another token")
	}
}

func TestLoginReportsAStolenSecretID(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	c := s.identity("tapseal-hsm")
	wrapping := readSecret(t, c.WrappedSecretID)
	if _, err := s.as(wrapping).write(context.Background(), "sys/wrapping/unwrap", nil); err != nil {
		t.Fatalf("the thief's unwrapping: %v", err)
	}
	_, err := Open(context.Background(), c, Options{})
	if !errors.Is(err, ErrStolen) || !errors.Is(err, ErrNeedsSecretID) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"already used or has expired", "someone else may hold the secret_id", `role "tapseal-hsm"`, "audit log", "vault write -wrap-ttl"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the sentence lacks %q: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), wrapping) {
		t.Error("the wrapping token is in the error")
	}
}

func TestLoginRefusesForeignWrappingTokens(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	for name, make := range map[string]func(Config) secret.Secret{
		"another role": func(Config) secret.Secret {
			w, err := s.admin().WrapSecretID(context.Background(), "approle", "tapseal-daemon", 300e9)
			if err != nil {
				t.Fatal(err)
			}
			return w
		},
		"a value of somebody's own": func(Config) secret.Secret {
			a := s.as(s.root)
			a.api.SetWrappingLookupFunc(func(string, string) string { return "300s" })
			out, err := a.write(context.Background(), "sys/wrapping/wrap", map[string]any{"secret_id": "mine"})
			if err != nil {
				t.Fatal(err)
			}
			return secret.New([]byte(out.WrapInfo.Token))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.identity("tapseal-hsm")
			w := make(c)
			if err := secret.WriteFile(c.WrappedSecretID, w); err != nil {
				t.Fatal(err)
			}
			_, err := Open(context.Background(), c, Options{})
			if !errors.Is(err, ErrForeignWrap) || !strings.Contains(err.Error(), "it was not used") {
				t.Fatalf("error %v", err)
			}
			if _, err := s.as(readSecret(t, c.WrappedSecretID)).write(context.Background(), "sys/wrapping/unwrap", nil); err != nil {
				t.Errorf("it was used: %v", err)
			}
		})
	}
}

func TestLoginRefusesWhatIsNotItsOwn(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	t.Run("a root token in the token file", func(t *testing.T) {
		c := s.identity("tapseal-hsm")
		if err := secret.WriteFile(c.TokenFile, secret.New([]byte(s.root))); err != nil {
			t.Fatal(err)
		}
		_, err := Open(context.Background(), c, Options{})
		if err == nil || !strings.Contains(err.Error(), "did not come from auth/approle/login") {
			t.Fatalf("error %v", err)
		}
		if strings.Contains(err.Error(), s.root) {
			t.Error("the token is in the error")
		}
	})
	t.Run("the token of another role", func(t *testing.T) {
		other := s.identity("tapseal-daemon")
		open(t, other, Options{})
		c := s.identity("tapseal-hsm")
		c.TokenFile = other.TokenFile
		if _, err := Open(context.Background(), c, Options{}); err == nil {
			t.Fatal("was taken")
		}
	})
	t.Run("files that others can read", func(t *testing.T) {
		for _, key := range []string{"wrapped_secret_id", "token_file"} {
			c := s.identity("tapseal-hsm")
			path := c.WrappedSecretID
			if key == "token_file" {
				path = c.TokenFile
				if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			_, err := Open(context.Background(), c, Options{})
			if err == nil || !strings.Contains(err.Error(), key+": mode is 0640") {
				t.Errorf("%s: %v", key, err)
			}
		}
	})
	t.Run("another role_id", func(t *testing.T) {
		c := s.identity("tapseal-hsm")
		c.RoleID = "00000000-0000-0000-0000-000000000000"
		_, err := Open(context.Background(), c, Options{})
		if !errors.Is(err, ErrNeedsSecretID) || !strings.Contains(err.Error(), "compare role_id") {
			t.Errorf("error %v", err)
		}
	})
	t.Run("no secret_id at all", func(t *testing.T) {
		c := s.identity("tapseal-hsm")
		c.WrappedSecretID = filepath.Join(t.TempDir(), "nothing")
		_, err := Open(context.Background(), c, Options{})
		if !errors.Is(err, ErrNeedsSecretID) || !strings.Contains(err.Error(), "there is no token from an earlier login") {
			t.Errorf("error %v", err)
		}
	})
}

func TestEnvironmentIsIgnored(t *testing.T) {
	s := startServer(t)
	s.setUp(testSetup)
	c := s.identity("tapseal-hsm")
	for name, value := range map[string]string{
		"VAULT_ADDR": "http://127.0.0.1:1", "VAULT_TOKEN": s.root, "VAULT_SKIP_VERIFY": "nonsense", "VAULT_NAMESPACE": "other",
		"VAULT_CACERT": "/nonexistent", "VAULT_MAX_RETRIES": "many", "VAULT_HEADERS": "{", "VAULT_WRAP_TTL": "60s", "VAULT_AGENT_ADDR": "http://127.0.0.1:1",
		"VAULT_HTTP_PROXY": "http://127.0.0.1:1", "VAULT_PROXY_ADDR": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1", "VAULT_RATE_LIMIT": "x",
		"VAULT_CLIENT_TIMEOUT": "0s", "VAULT_TLS_SERVER_NAME": "other",
	} {
		t.Setenv(name, value)
	}
	v := open(t, c, Options{})
	wantPIN(t, newPIN(t, v), plantedPIN)
	if v.conn.api.Token() == s.root || v.door.api.Token() != "" {
		t.Error("a token came from the environment")
	}
}

// A token whose owner could not be asked about is never used: not by the login
// that failed, and not by the next request.
func TestUncheckedTokenIsNotUsed(t *testing.T) {
	r, f := runBehind(t)
	if err := secret.WriteFile(r.config.TokenFile, secret.New([]byte(r.s.root))); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	asked, used := 0, 0
	f.set(func(w http.ResponseWriter, q *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		ours := q.Header.Get("X-Vault-Token") != r.s.root
		switch lookup := strings.HasSuffix(q.URL.Path, lookupSelf); {
		case ours: // the token has ended
			w.WriteHeader(http.StatusForbidden)
			return true
		case lookup && asked == 0:
			asked++
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		case !lookup:
			used++
		}
		return false
	})
	if _, err := r.vault.read(context.Background(), "tapseal/data/hsm/pin"); !errors.Is(err, ErrAway) {
		t.Errorf("error %v", err)
	}
	_, err := r.vault.read(context.Background(), "tapseal/data/hsm/pin")
	if err == nil || !strings.Contains(err.Error(), "did not come from auth/approle/login") {
		t.Errorf("error %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if asked != 1 || used != 0 {
		t.Errorf("asked %d times, used %d times", asked, used)
	}
	if r.vault.conn.api.Token() == r.s.root || r.vault.door.api.Token() != "" {
		t.Error("the unchecked token is kept")
	}
}
