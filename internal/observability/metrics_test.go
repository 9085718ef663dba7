package observability

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/state/store"
	"github.com/tapseal/tapseal/internal/verdict"
)

func warm() *Metrics {
	m := NewMetrics("test")
	m.Watch(Sources{
		InFlight: func() int { return 3 },
		Places:   func() int { return 4 },
		Ends:     func() time.Time { return time.Unix(5, 0) },
		Pool:     func() hsm.Stats { return hsm.Stats{} },
		Journal:  func() audit.Stats { return audit.Stats{} },
		State:    func() store.Stats { return store.Stats{} },
	})
	m.Decided(1, verdict.Decision{Verdict: verdict.Valid}, time.Millisecond)
	m.Refused(codes.InvalidArgument)
	m.Limited(authz.LimitRate, 1)
	m.PolicyLoaded(true)
	return m
}

// TestDocumentedIsWhatIsServed compares the table with the listener's answer,
// both ways.
func TestDocumentedIsWhatIsServed(t *testing.T) {
	families, err := warm().registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]string{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "tapseal_") {
			var labels []string
			for _, l := range f.GetMetric()[0].GetLabel() {
				labels = append(labels, l.GetName())
			}
			served[f.GetName()] = fmt.Sprint(strings.ToLower(f.GetType().String()), labels, f.GetHelp())
		}
	}
	for _, d := range Documented() {
		labels := slices.Sorted(slices.Values(d.Labels))
		if got, want := served[d.Name], fmt.Sprint(d.Type, labels, d.Help); got != want {
			t.Errorf("%s is served as %q, documented as %q", d.Name, got, want)
		}
		if d.Help == "" {
			t.Errorf("%s has no help", d.Name)
		}
		delete(served, d.Name)
	}
	for name := range served {
		t.Errorf("%s is not documented", name)
	}
}

func TestDecidedDoesNotAllocate(t *testing.T) {
	m := warm()
	p := cryptogram.Profiles()[0].ID
	d := verdict.Decision{Verdict: verdict.Invalid, Reason: verdict.CryptogramMismatch}
	m.Decided(p, d, time.Millisecond)
	if n := testing.AllocsPerRun(100, func() { m.Decided(p, d, time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestProfilingIsOffUnlessAsked(t *testing.T) {
	for profiling, want := range map[bool]int{false: http.StatusNotFound, true: http.StatusOK} {
		s := httptest.NewServer(warm().Server(profiling, func(*http.Request) (int, error) { return 0, nil }).Handler)
		defer s.Close()
		resp, err := http.Get(s.URL + "/debug/pprof/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("profiling %v: status %d, want %d", profiling, resp.StatusCode, want)
		}
	}
}

func TestNothingIsServedToWhomNobodyLetsIn(t *testing.T) {
	s := httptest.NewServer(warm().Server(true, func(*http.Request) (int, error) {
		return http.StatusForbidden, errors.New("no")
	}).Handler)
	defer s.Close()
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/"} {
		resp, err := http.Get(s.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden || string(body) != "no\n" {
			t.Errorf("%s: %s %q", path, resp.Status, body)
		}
	}
}
