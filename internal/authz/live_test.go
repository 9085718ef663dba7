package authz

import (
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func write(t testing.TB, file, text string) {
	t.Helper()
	// As an administrator does it: never half a file.
	if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func loaded(t testing.TB, text string) (live *Live, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, text)
	live = NewLive()
	if _, err := live.Load(file); err != nil {
		t.Fatal(err)
	}
	return live, file
}

const tokensURI = "spiffe://acme.test/tokens"

func TestReload(t *testing.T) {
	live, file := loaded(t, written)
	first := live.Policy()
	if first.Digest() != sha256.Sum256([]byte(written)) || live.Since().IsZero() {
		t.Fatal("digest or time is not the file's")
	}
	caller := live.Caller(tokensURI)
	if p, ok := caller.Principal(); !ok || !p.Allows(MethodVerifyCryptogram, "visa") {
		t.Fatal("not allowed before")
	}

	// The same file again changes nothing.
	if c, err := live.Load(file); err != nil || c.Changed() || live.Policy() != first || len(c.Lines) != 0 {
		t.Fatalf("%v %v", c, err)
	}
	// A trial changes nothing.
	next := strings.Replace(written, "key_sets: [visa]", "key_sets: [interac]", 1)
	write(t, file, next)
	tried, err := live.Try(file)
	if err != nil || !tried.Changed() || live.Policy() != first {
		t.Fatalf("%v %v", tried, err)
	}
	// Another file than the reviewed one changes nothing.
	if _, err := live.LoadReviewed(file, tried.Before); !errors.Is(err, ErrNotReviewed) || live.Policy() != first {
		t.Fatal(err)
	}
	if _, err := live.LoadReviewed(file, Digest{}); !errors.Is(err, ErrNotReviewed) {
		t.Fatal(err)
	}
	c, err := live.LoadReviewed(file, tried.After)
	if err != nil || c.String() != tried.String() {
		t.Fatalf("%v %v", c, err)
	}
	want := []string{
		"grant caller tapseal.v1.CryptogramService/VerifyCryptogram visa removed",
		"grant caller tapseal.v1.CryptogramService/VerifyCryptogram interac added",
	}
	if !slices.Equal(c.Lines, want) || c.Before != first.Digest() || c.After != sha256.Sum256([]byte(next)) {
		t.Fatalf("%+v", c)
	}
	if p, ok := caller.Principal(); !ok || p.Allows(MethodVerifyCryptogram, "visa") || !p.Allows(MethodVerifyCryptogram, "interac") {
		t.Fatal("the caller's view did not follow")
	}
	// Who is removed is nobody from the next question on.
	write(t, file, strings.Replace(next, tokensURI, tokensURI+"2", 1))
	if _, err := live.Load(file); err != nil {
		t.Fatal(err)
	}
	if p, ok := caller.Principal(); ok || p != nil {
		t.Fatal("the caller's view did not follow")
	}
}

// TestReloadKeepsTheOld on every fault.
func TestReloadKeepsTheOld(t *testing.T) {
	live, file := loaded(t, written)
	if err := live.Require(allMethods); err != nil {
		t.Fatal(err)
	}
	first, since := live.Policy(), live.Since()
	for name, spoil := range map[string]func(){
		"typo":     func() { write(t, file, strings.Replace(written, "roles:", "rolse:", 1)) },
		"half":     func() { write(t, file, written[:len(written)/2]) },
		"empty":    func() { write(t, file, "") },
		"no row":   func() { write(t, file, strings.Replace(written, "  - http/metrics\n", "", 1)) },
		"conflict": func() { write(t, file, strings.Replace(written, "[operator]", "[operator, auditor]", 1)) },
		"writable": func() {
			write(t, file, written+"# changed\n")
			if err := os.Chmod(file, 0o622); err != nil {
				t.Fatal(err)
			}
		},
		"gone": func() { _ = os.Remove(file) },
		"a directory": func() {
			_ = os.Remove(file)
			if err := os.Mkdir(file, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"a pipe": func() {
			_ = os.Remove(file)
			if err := syscall.Mkfifo(file, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"a device": func() {
			_ = os.Remove(file)
			if err := os.Symlink("/dev/zero", file); err != nil {
				t.Fatal(err)
			}
		},
	} {
		_ = os.Remove(file)
		spoil()
		c, err := live.Load(file)
		if err == nil || live.Policy() != first || !live.Since().Equal(since) || c.After != (Digest{}) {
			t.Errorf("%s: %v %v", name, c, err)
		}
		if _, err := live.Try(file); err == nil {
			t.Errorf("%s: a trial finds nothing", name)
		}
	}
}

func TestRequire(t *testing.T) {
	live, file := loaded(t, written)
	if err := live.Require([]string{"/tapseal.v1.CryptogramService/Respond"}); err != nil {
		t.Fatal(err)
	}
	err := live.Require([]string{"/tapseal.v2.Other/Method"})
	if err == nil || !strings.Contains(err.Error(), "tapseal.v2.Other/Method") {
		t.Fatal(err)
	}
	fresh := NewLive() // the other order
	if err := fresh.Require([]string{"/tapseal.v2.Other/Method"}); err != nil {
		t.Fatal(err)
	}
	if _, err := fresh.Load(file); err == nil || !strings.Contains(err.Error(), "tapseal.v2.Other/Method") || fresh.Policy() != nil {
		t.Fatal(err)
	}
}

// TestReview takes files that a service would not, with a warning.
func TestReview(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, written)
	if p, w, err := Review(file); err != nil || len(w) != 0 || p == nil {
		t.Fatal(p, w, err)
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, w, err := Review(file); err != nil || len(w) != 1 || !strings.Contains(w[0].Problem, "can be written by others") {
			t.Fatal(w, err)
		}
		if _, err := LoadFile(file); err == nil {
			t.Fatalf("mode %o is taken", mode)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFile(file); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // only root can give a file away
		if err := os.Chown(file, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadFile(file); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Fatal(err)
		}
	}
}

// TestReloadKeepsAccounts: a reload gives nobody a new burst, and what is in
// flight stays counted, whichever policy it began under.
func TestReloadKeepsAccounts(t *testing.T) {
	live, file := loaded(t, written)
	now := time.Now()
	live.now = func() time.Time { return now }
	caller := live.Caller(tokensURI)
	before, _ := caller.Principal()
	if a := before.Admit(now, 200); a.Taps != 200 {
		t.Fatalf("%+v", a)
	}
	if n := openAll(before); n != 4 {
		t.Fatalf("%d streams, want 4", n)
	}
	write(t, file, written+"# only a comment\n")
	c, err := live.Load(file)
	if err != nil || !c.Changed() || len(c.Lines) != 0 || !strings.HasSuffix(c.String(), ": no right changed") {
		t.Fatal(c, err)
	}
	after, _ := caller.Principal()
	if after == before {
		t.Fatal("the principal is the old one")
	}
	if after.OpenStream() {
		t.Fatal("a fifth stream")
	}
	if a := after.Admit(now, 100); a.Taps != 56 || a.By != LimitInFlight {
		t.Fatalf("%+v", a)
	}
	before.Release(200)
	before.CloseStream()
	if !after.OpenStream() {
		t.Fatal("no stream after one ended")
	}
	if a := after.Admit(now, 256); a.Taps != 200 || a.By != LimitInFlight {
		t.Fatalf("%+v", a)
	}
	after.Release(256)
	if a := after.Admit(now, 100); a.Taps != 500-456 || a.By != LimitRate {
		t.Fatalf("%+v", a)
	}
	after.Release(100)

	// Another rate and depth: the bucket is still empty, and fills as it says.
	write(t, file, strings.NewReplacer("taps_per_second: 2000", "taps_per_second: 10", "burst: 500", "burst: 20").Replace(written))
	if _, err := live.Load(file); err != nil {
		t.Fatal(err)
	}
	slow, _ := caller.Principal()
	if a := slow.Admit(now, 1); a.Taps != 0 || a.By != LimitRate || a.RetryAfter != 100*time.Millisecond {
		t.Fatalf("%+v", a)
	}
	if a := slow.Admit(now.Add(300*time.Millisecond), 9); a.Taps != 3 {
		t.Fatalf("%+v", a)
	}
	// A deeper one does not come full either.
	now = now.Add(300 * time.Millisecond)
	write(t, file, strings.NewReplacer("taps_per_second: 2000", "taps_per_second: 1000", "burst: 500", "burst: 100").Replace(written))
	if _, err := live.Load(file); err != nil {
		t.Fatal(err)
	}
	fast, _ := caller.Principal()
	if a := fast.Admit(now, 100); a.Taps != 80 {
		t.Fatalf("%+v", a)
	}
}

// TestReloadWhileAsked: readers see one policy or the other, whole, and what is
// in flight adds up at the end.
func TestReloadWhileAsked(t *testing.T) {
	live, file := loaded(t, written)
	other := strings.NewReplacer("key_sets: [visa]", "key_sets: [interac]", "streams: 4", "streams: 5").Replace(written)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			caller := live.Caller(tokensURI)
			for {
				select {
				case <-stop:
					return
				default:
				}
				p, ok := caller.Principal()
				if !ok || p.Allows(MethodVerifyCryptogram, "visa") == p.Allows(MethodVerifyCryptogram, "interac") {
					t.Error("neither policy")
					return
				}
				if p.Allows(MethodVerifyCryptogram, "visa") != (p.Limits().Streams == 4) {
					t.Error("half of each policy")
					return
				}
				a := p.Admit(time.Now(), 3)
				if p.OpenStream() {
					p.CloseStream()
				}
				p.Release(a.Taps)
			}
		})
	}
	for i := range 100 {
		write(t, file, []string{other, written}[i%2])
		if c, err := live.Load(file); err != nil || len(c.Lines) != 3 {
			t.Error(c.Lines, err)
		}
		if i%10 == 0 {
			write(t, file, "broken")
			if _, err := live.Load(file); err == nil {
				t.Error("broken is taken")
			}
		}
	}
	close(stop)
	wg.Wait()
	caller := live.Caller(tokensURI)
	if p, _ := caller.Principal(); p.account.inFlight.Load() != 0 || p.account.streams.Load() != 0 {
		t.Error("counters are not back at zero")
	}
}

func TestChange(t *testing.T) {
	base := mustParse(t, written)
	for _, tc := range []struct {
		old, fresh string
		want       []string
	}{
		{"", "", nil},
		{"[visa, interac]", `"*"`, []string{"principal tokens: key set interac removed", "principal tokens: key set visa removed", "principal tokens: key set * added"}},
		{"[operator]\n", "[key-manager]\n", []string{"principal alice: role operator removed", "principal alice: role key-manager added"}},
		{"[spiffe://acme.test/alice]", "[spiffe://acme.test/alice, x:y]", []string{"principal alice: identity x:y added"}},
		{"kind: person", "kind: workload", []string{"principal alice: kind person is now workload"}},
		{"streams: 4", "streams: 5", []string{"principal tokens: limits {taps_per_second: 2000, burst: 500, taps_in_flight: 256, streams: 4} are now {taps_per_second: 2000, burst: 500, taps_in_flight: 256, streams: 5}"}},
		{"name: alice", "name: bob", []string{
			"principal alice removed: person, roles operator, identities spiffe://acme.test/alice, key sets none",
			"principal bob added: person, roles operator, identities spiffe://acme.test/alice, key sets none",
		}},
		{"  - tapseal.v1.AdminService/ListKeys\n", "", []string{"closing of tapseal.v1.AdminService/ListKeys removed", "grant operator tapseal.v1.AdminService/ListKeys added"}},
	} {
		text := strings.Replace(written, tc.old, tc.fresh, 1)
		if strings.Contains(tc.old, "ListKeys") {
			text = strings.Replace(text, "AdminService/GetStatus]", "AdminService/GetStatus, tapseal.v1.AdminService/ListKeys]", 1)
		}
		c := difference(base, mustParse(t, text))
		if !slices.Equal(c.Lines, tc.want) {
			t.Errorf("%s: %q", tc.fresh, c.Lines)
		}
	}
	c := difference(base, base)
	if c.Changed() || !strings.HasSuffix(c.String(), " unchanged") || c.Summary() != c.String() {
		t.Error(c.String(), c.Summary())
	}
	c = difference(nil, base)
	if !c.Changed() || len(c.Lines) != 24 || !strings.HasSuffix(c.Summary(), ": the first") || !strings.Contains(c.String(), "principal tokens added: workload, roles caller") {
		t.Error(len(c.Lines), c.String(), c.Summary())
	}
	c = difference(base, mustParse(t, strings.Replace(written, "streams: 4", "streams: 5", 1)))
	if !strings.HasSuffix(c.Summary(), ": 1 changes") {
		t.Error(c.Summary())
	}
}
