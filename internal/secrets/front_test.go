package secrets

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
)

// A front stands before the server, as a load balancer does, and answers
// itself where answer says so.
type front struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request) (answered bool) // nil: pass everything on
}

func startFront(t *testing.T, s *server) *front {
	t.Helper()
	target, err := url.Parse(s.url)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	behind := httputil.NewSingleHostReverseProxy(target)
	behind.Transport = transport
	f := &front{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		answer := f.answer
		f.mu.Unlock()
		if answer == nil || !answer(w, r) {
			behind.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() { f.Close(); transport.CloseIdleConnections() })
	return f
}

func (f *front) set(answer func(http.ResponseWriter, *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

// runBehind is run through a front.
func runBehind(t *testing.T) (*running, *front) {
	t.Helper()
	s := startServer(t)
	f := startFront(t, s)
	s.setUp(testSetup)
	r := &running{s: s, config: s.identity("tapseal-hsm"), clock: newFakeClock(), log: &lines{}}
	r.config.Address = f.URL
	r.vault = open(t, r.config, Options{Clock: r.clock, Log: r.log.logger()})
	r.pin = newPIN(t, r.vault)
	wantPIN(t, r.pin, plantedPIN)
	return r, f
}
