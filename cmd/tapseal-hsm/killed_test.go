package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/supervisor"
)

// countLogins puts a module in front of the token's that writes down each
// C_Login before it is made, and makes it take some time.
func (s *site) countLogins(pauseMS string) {
	s.t.Helper()
	out, err := exec.Command("cc", "-std=c11", "-shared", "-fPIC", "-o", s.path("proxy.so"),
		filepath.Join("..", "..", "hsm", "pkcs11", "testdata", "proxy.c"), "-ldl").CombinedOutput()
	if err != nil {
		s.t.Fatalf("compiling the proxy: %v: %s", err, out)
	}
	s.c.Environment["PROXY_MODULE"], s.c.Environment["PROXY_LOG"], s.c.Environment["PROXY_PAUSE"] = s.c.Module, s.path("logins"), pauseMS
	s.c.Module = s.path("proxy.so")
	s.c.ModuleSHA256 = hashOf(s.t, s.c.Module)
	s.configure()
}

// loginsMade is how many logins have reached the token.
func (s *site) loginsMade() int {
	data, err := os.ReadFile(s.path("logins"))
	if err != nil && !os.IsNotExist(err) {
		s.t.Fatal(err)
	}
	return strings.Count(string(data), "C_Login\n")
}

func (s *site) latched() bool {
	_, err := os.Stat(s.path("state/login-stopped.json"))
	return err == nil
}

// awaitLogin waits for one more login than before, or a latch.
func (s *site) awaitLogin(before int) {
	s.t.Helper()
	for begun := time.Now(); s.loginsMade() == before && !s.latched(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > patience {
			s.t.Fatalf("no login and no latch:\n%s", s.logged())
		}
	}
}

// kill kills the supervisor at once.
func (s *site) kill() {
	s.t.Helper()
	_ = s.daemon.Process.Kill()
	_ = s.end()
}

// However often the supervisor, or a check, is killed in the login: a wrong
// PIN reaches the token twice at most, until an operator unlocks.
func TestKilledInLoginWithWrongPIN(t *testing.T) {
	s := newSite(t)
	s.countLogins("300")
	s.write("pin", "0000-1111\n")
	for n := range 8 {
		before := s.loginsMade()
		if n == 1 && before == 1 {
			cmd := exec.Command(os.Args[0], "check", "--config", s.path("hsm.yaml"))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			s.awaitLogin(before)
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			continue
		}
		s.supervise()
		s.awaitLogin(before)
		s.kill()
	}
	if n := s.loginsMade(); n != 2 || !s.latched() {
		t.Errorf("%d logins, latched: %v", n, s.latched())
	}
	s.supervise()
	st := s.await("logins are stopped", func(st *supervisor.Status) bool { return st.Login == supervisor.LoginStopped })
	if st.Latch == nil || !strings.Contains(st.Latch.Reason, "without a known result") {
		t.Errorf("latch: %+v", st.Latch)
	}
}

// Killed at moments that nobody chose, the same holds.
func TestKilledAtAnyTimeWithWrongPIN(t *testing.T) {
	s := newSite(t)
	s.countLogins("20")
	s.write("pin", "0000-1111\n")
	for n := 0; n < 25 && !s.latched(); n++ {
		s.supervise()
		time.Sleep(time.Duration(15+rand.IntN(35)) * time.Millisecond)
		s.kill()
	}
	s.supervise()
	s.await("logins are stopped", func(st *supervisor.Status) bool { return st.Login == supervisor.LoginStopped })
	if n := s.loginsMade(); n > 2 {
		t.Errorf("%d logins", n)
	}
}

// With a PIN that was right once, no kill of the supervisor is held against
// it, and every start serves in time.
func TestKilledInLoginWithRightPIN(t *testing.T) {
	s := newSite(t)
	s.countLogins("40")
	s.supervise()
	s.await("all serve", serving)
	for range 20 {
		s.kill()
		before := s.loginsMade()
		s.supervise()
		s.awaitLogin(before)
		time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
	}
	s.kill()
	begun := time.Now()
	s.supervise()
	st := s.await("all serve", serving)
	if took := time.Since(begun); took > 2*time.Second {
		t.Errorf("back after %s", took)
	}
	if st.Login != supervisor.LoginOK || s.latched() || s.loginsMade() < 20 {
		t.Errorf("%s, latched: %v, %d logins", st.Login, s.latched(), s.loginsMade())
	}
	if _, err := s.dial(0).Verify(s.item(1)); err != nil {
		t.Error(err)
	}
	// The control: after that, a wrong PIN is as wrong as ever.
	s.kill()
	s.write("pin", "0000-1111\n")
	before := s.loginsMade()
	s.supervise()
	s.await("logins are stopped", func(st *supervisor.Status) bool { return st.Login == supervisor.LoginStopped })
	if n := s.loginsMade(); n != before+1 {
		t.Errorf("%d logins with a wrong PIN", n-before)
	}
}
