package secrets

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
)

const pinURL = "/v1/tapseal/data/hsm/pin"

// A PIN that the token refused does not come back with an answer that was on
// its way when it was forgotten.
func TestForgottenWhileAsking(t *testing.T) {
	r, f := runBehind(t)
	asked, goOn := make(chan struct{}), make(chan struct{})
	f.set(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == pinURL {
			close(asked)
			<-goOn
		}
		return false
	})
	answered := make(chan error)
	go func() {
		pin, err := r.pin.PIN(context.Background())
		pin.Wipe()
		answered <- err
	}()
	<-asked
	r.pin.Close()
	close(goOn)
	if err := <-answered; err != nil {
		t.Fatalf("the question itself: %v", err)
	}
	f.set(nil)
	r.s.kill()
	if _, err := r.pin.PIN(context.Background()); !errors.Is(err, ErrAway) {
		t.Errorf("the forgotten PIN came back: %v", err)
	}
}

// Without a forget between question and answer it is kept.
func TestKeptAgainAfterForget(t *testing.T) {
	r, _ := runBehind(t)
	r.pin.Close()
	wantPIN(t, r.pin, plantedPIN)
	r.s.kill()
	wantPIN(t, r.pin, plantedPIN)
}

// Only Vault's word that the PIN was deleted takes the kept one away: any box
// between can answer 404, and so does Vault for an engine that is not mounted.
func TestOther404sKeepThePIN(t *testing.T) {
	for name, body := range map[string]string{
		"empty":            "",
		"an empty object":  "{}",
		"no errors":        `{"errors":[]}`,
		"no handler":       `{"errors":["no handler for route 'tapseal/data/hsm/pin'"]}`,
		"a page":           "<html>not found</html>",
		"only a warning":   `{"data":null,"warnings":["Invalid path for a versioned K/V secrets engine"]}`,
		"empty data":       `{"data":{"data":null,"metadata":{}}}`,
		"not deleted":      `{"data":{"data":null,"metadata":{"deletion_time":"","destroyed":false,"version":1}}}`,
		"not of this kind": `{"data":{"data":null,"metadata":{"deletion_time":null,"destroyed":"yes"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			r, f := runBehind(t)
			f.set(func(w http.ResponseWriter, q *http.Request) bool {
				if q.URL.Path != pinURL {
					return false
				}
				w.WriteHeader(http.StatusNotFound)
				_, _ = w.Write([]byte(body))
				return true
			})
			wantPIN(t, r.pin, plantedPIN)
			if _, problem := r.pin.Status(); problem == nil {
				t.Error("the problem is not reported")
			}
			if !strings.Contains(r.log.String(), "the PIN cannot be read from vault") {
				t.Error("the problem is not logged")
			}
			r.clock.advance(DefaultPINMaxAge + time.Second)
			if _, err := r.pin.PIN(context.Background()); err == nil || !strings.Contains(err.Error(), "pin_max_age") {
				t.Errorf("it is kept for ever: %v", err)
			}
		})
	}
}

func TestUnmountedEngineKeepsThePIN(t *testing.T) {
	r := run(t, startServer(t))
	if _, err := r.s.as(r.s.root).api.Logical().Delete("sys/mounts/tapseal"); err != nil {
		t.Fatal(err)
	}
	wantPIN(t, r.pin, plantedPIN)
	if _, problem := r.pin.Status(); problem == nil {
		t.Error("the problem is not reported")
	}
}

func TestPINDestroyedInVaultIsForgotten(t *testing.T) {
	r := run(t, startServer(t))
	r.s.must("tapseal/destroy/hsm/pin", map[string]any{"versions": []int{1}})
	if _, err := r.pin.PIN(context.Background()); !errors.Is(err, ErrNotFound) {
		t.Fatalf("error %v", err)
	}
	r.s.kill()
	if _, err := r.pin.PIN(context.Background()); err == nil {
		t.Error("the destroyed PIN is still kept")
	}
}
