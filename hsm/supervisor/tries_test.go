package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
)

// newTestLogins is what a supervisor has after its start. Leaving it without
// the result of a login is what a kill does.
func newTestLogins(t *testing.T, r *rig) *logins {
	t.Helper()
	l, err := newLogins(r.c, pinFile(r.c.PINFile), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

func newStateRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t, nil)
	if err := os.Mkdir(r.c.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	return r
}

// Each step is a login in a supervisor of its own. Only those that reach the
// token are in the PIN's counter there.
func TestLoginsAcrossRestarts(t *testing.T) {
	died := &startError{detail: "killed"}
	absent := &startError{kind: worker.FailureTokenNotFound, detail: "no token"}
	badKeys := &startError{kind: worker.FailureKeys, detail: "keys"}
	refused := &startError{kind: worker.FailurePINRefused, detail: "refused"}
	type step struct {
		result error // nil is a success
		killed bool  // the supervisor, before it knows
		newPIN bool  // written before this login
	}
	ok, kill := step{}, step{killed: true}
	fresh := func(s step) step { s.newPIN = true; return s }
	many := func(s step, n int) []step {
		var all []step
		for range n {
			all = append(all, s)
		}
		return all
	}
	for name, c := range map[string]struct {
		steps []step
		tried int // logins, the others are refused by the latch
	}{
		"killed, PIN never right":          {many(kill, 6), 2},
		"died, PIN never right":            {many(step{result: died}, 6), 2},
		"killed and died":                  {append([]step{kill, {result: died}}, many(kill, 4)...), 2},
		"a known failure says nothing":     {[]step{kill, {result: absent}, kill, {result: absent}, kill}, 3},
		"only known failures":              {many(step{result: absent}, 6), 6},
		"killed, PIN right before":         {append([]step{ok}, many(kill, 20)...), 21},
		"died, PIN right before":           {append([]step{ok}, many(step{result: died}, 20)...), 21},
		"killed, keys wrong and PIN right": {append([]step{{result: badKeys}}, many(kill, 9)...), 10},
		"another PIN is not that one":      {append([]step{ok, fresh(kill)}, many(kill, 5)...), 3},
		"a new PIN takes nothing back":     {[]step{kill, fresh(kill), fresh(kill), fresh(kill)}, 2},
		"a success takes everything back":  {append([]step{kill, ok}, many(kill, 5)...), 7},
		"refused at once":                  {append([]step{{result: refused}}, many(kill, 5)...), 1},
		"refused though right before":      {append([]step{ok, kill, {result: refused}}, many(kill, 5)...), 3},
	} {
		t.Run(name, func(t *testing.T) {
			r := newStateRig(t)
			tried := 0
			for _, s := range c.steps {
				if s.newPIN {
					awaitTick(t, r)
					r.write("pin", testPIN+"\n")
				}
				l := newTestLogins(t, r)
				pin, err := l.currentPIN(context.Background())
				if err == nil {
					pin.Wipe()
					var try login
					if try, err = l.begin(pin.version); err == nil {
						tried++
						if !s.killed {
							l.record(try, s.result)
						}
					}
				}
				if err != nil && !errors.Is(err, errStopped) {
					t.Fatal(err)
				}
			}
			if tried != c.tried {
				t.Errorf("%d logins, want %d", tried, c.tried)
			}
			if latched := r.stateFile(latchName); latched != (tried < len(c.steps)) {
				t.Errorf("latched: %v", latched)
			}
			r.noPINInState()
		})
	}
}

func (r *rig) noPINInState() {
	r.t.Helper()
	for _, name := range []string{latchName, inProgressName, lastOKName} {
		if strings.Contains(r.read(filepath.Join("state", name)), testPIN) {
			r.t.Errorf("the PIN is in %s", name)
		}
	}
}

// After an unlock the PIN has to prove itself again, from zero.
func TestUnlockForgetsLogins(t *testing.T) {
	r := newStateRig(t)
	for range 3 {
		l := newTestLogins(t, r)
		_, _ = l.begin("some version")
	}
	if !r.stateFile(latchName) {
		t.Fatal("not latched")
	}
	if _, _, err := Unlock(r.c, true); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if _, err := newTestLogins(t, r).begin("some version"); (err == nil) != (n < maxUnknownLogins) {
			t.Errorf("login %d after the unlock: %v", n, err)
		}
	}
}

// The tries are changed under the login lock only: a login of another process
// must not write its count over the unlock's.
func TestUnlockWaitsForALogin(t *testing.T) {
	r := newStateRig(t)
	if err := newLatch(r.c.StateDir).set(LatchRecord{Time: time.Now(), Reason: reasonUnknown}); err != nil {
		t.Fatal(err)
	}
	if err := newTries(r.c).setUnknown(1); err != nil {
		t.Fatal(err)
	}
	lock, err := tryLock(loginLock(r.c.StateDir))
	if err != nil {
		t.Fatal(err)
	}
	if _, stopped, err := Unlock(r.c, false); err != nil || !stopped {
		t.Errorf("a dry unlock waits: %v, %v", stopped, err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := Unlock(r.c, true); done <- err }()
	select {
	case err := <-done:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(10 * lockRetry):
	}
	if !r.stateFile(latchName) || !r.stateFile(inProgressName) {
		t.Error("it changed the state during a login")
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if r.stateFile(latchName) || r.stateFile(inProgressName) {
		t.Error("it did not unlock")
	}
}

// Another token's PIN proves nothing, nor does a file that cannot be read.
func TestProofIsForOneToken(t *testing.T) {
	r := newStateRig(t)
	if err := newTries(r.c).prove("some version"); err != nil {
		t.Fatal(err)
	}
	if tr := newTries(r.c); !tr.proven("some version") || tr.proven("another version") || tr.proven("") {
		t.Error("the wrong version is proven")
	}
	for _, change := range []func(*Config){
		func(c *Config) { c.TokenLabel = "other" },
		func(c *Config) { c.TokenSerial = "1" },
		func(c *Config) { c.Module = "/other.so" },
		func(c *Config) { c.ModuleArgs = "other" },
	} {
		c := *r.c
		change(&c)
		if newTries(&c).proven("some version") {
			t.Errorf("proven for %+v", newTries(&c).token)
		}
	}
	for text, want := range map[string]int{"": 2, "{}": 2, `{"unknown":-1}`: 2, "\x00": 2, `{"unknown":1}`: 1} {
		r.write("state/"+lastOKName, text)
		r.write("state/"+inProgressName, text)
		if tr := newTries(r.c); tr.proven("some version") || tr.unknown() != want {
			t.Errorf("%q: %d", text, tr.unknown())
		}
	}
}

// What cannot be remembered is not tried, except with a PIN that was right.
func TestNoLoginThatCouldBeForgotten(t *testing.T) {
	r := newStateRig(t)
	l := newTestLogins(t, r)
	l.tries.dir = r.path("gone")
	if _, err := l.begin("some version"); err == nil || !strings.HasPrefix(err.Error(), "state_dir: ") {
		t.Errorf("got %v", err)
	}
	l.record(login{version: "some version"}, nil)
	if try, err := l.begin("some version"); err != nil || !try.proven {
		t.Errorf("after a success: %+v, %v", try, err)
	}
}

// The version of a PIN file changes with everything that may change the PIN.
func TestPINFileVersion(t *testing.T) {
	r := newRig(t, nil)
	f := pinFile(r.c.PINFile)
	seen := map[string]bool{"": true}
	fresh := func(what string) {
		t.Helper()
		pin, err := f.PIN(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer pin.Wipe()
		if seen[pin.version] || strings.Contains(pin.version, testPIN) {
			t.Errorf("%s: version %q", what, pin.version)
		}
		seen[pin.version] = true
		if again := f.version(); again != pin.version {
			t.Errorf("%s: the version changes by itself", what)
		}
	}
	fresh("first")
	info, err := os.Stat(string(f))
	if err != nil {
		t.Fatal(err)
	}
	awaitTick(t, r)
	r.write("pin", strings.Repeat("9", len(testPIN))+"\n")
	if err := os.Chtimes(string(f), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	fresh("same size and time")
	r.write("new", testPIN+"\n")
	if err := os.Rename(r.path("new"), string(f)); err != nil {
		t.Fatal(err)
	}
	fresh("replaced")
}

// awaitTick waits until the clock of the file system has moved on.
func awaitTick(t *testing.T, r *rig) {
	t.Helper()
	first := r.tick()
	for r.tick() == first {
	}
}

func (r *rig) tick() string {
	r.write("tick", "")
	_, changed, _ := strings.Cut(pinFile(r.path("tick")).version(), "changed ")
	return changed
}

// What a kill leaves of writing is gone after the next start, and does not
// look like a latch.
func TestLeftoversAreRemoved(t *testing.T) {
	r := newStateRig(t)
	left := []string{".write-test.new", ".write-test", ".login-stopped.json.new", ".login-in-progress.json.new", ".last-login-ok.json.new"}
	for _, name := range left {
		r.write("state/"+name, "")
	}
	newTestLogins(t, r)
	entries, err := os.ReadDir(r.c.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "login.lock" {
			t.Errorf("%s is left", e.Name())
		}
	}
}
