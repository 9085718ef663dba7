package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/hsm/supervisor"
)

// ownModule gives the site a copy of the module, to be exchanged.
func (s *site) ownModule() {
	s.t.Helper()
	data, err := os.ReadFile(s.c.Module)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("module.so", string(data))
	s.c.Module = s.path("module.so")
	s.configure()
}

// exchange puts another file in the module's place, as an update does.
func (s *site) exchange() {
	s.t.Helper()
	data, err := os.ReadFile(s.c.Module)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("module.new", string(data)+"\x00")
	if err := os.Rename(s.path("module.new"), s.c.Module); err != nil {
		s.t.Fatal(err)
	}
}

// A check prints the line that pins the module, and with that line it starts.
func TestCheckPrintsTheHashToPin(t *testing.T) {
	s := newSite(t)
	hash := s.c.ModuleSHA256
	for _, bad := range []string{"", strings.Repeat("0", 64), "what"} {
		s.c.ModuleSHA256 = bad
		s.configure()
		out, _, status := s.run("check", "--config", s.path("hsm.yaml"))
		line := regexp.MustCompile(`(?m)^module_sha256: .*module_sha256: ([0-9a-f]{64})$`).FindStringSubmatch(out)
		if status != statusFailed || line == nil || line[1] != hash {
			t.Errorf("%q: status %d: %s", bad, status, out)
		}
		if _, errOut, status := s.run("supervise", "--config", s.path("hsm.yaml")); status != statusFailed || !strings.Contains(errOut, "module_sha256: ") {
			t.Errorf("%q: supervise: status %d: %s", bad, status, errOut)
		}
	}
}

// A module that was exchanged is not loaded; who serves, serves on.
func TestExchangedModuleIsRefused(t *testing.T) {
	s := newSite(t)
	s.ownModule()
	s.supervise()
	before := s.await("all serve", serving)
	s.exchange()
	if err := supervisor.QueryRecycle(t.Context(), s.path("run")); err != nil {
		t.Fatal(err)
	}
	st := s.await("the replacement was refused", func(st *supervisor.Status) bool { return st.Workers[0].LastError != "" })
	if !strings.Contains(st.Workers[0].LastError, "module-refused") || !serving(st) || st.Workers[0].PID != before.Workers[0].PID {
		t.Errorf("%+v", st.Workers[0])
	}
	if st.Logins["failed"] == 0 || st.Login != supervisor.LoginOK {
		t.Errorf("logins: %v, %s", st.Logins, st.Login)
	}
	if _, err := s.dial(0).Verify(s.item(1)); err != nil {
		t.Errorf("the old worker: %v", err)
	}
}

// A directory in which others may exchange the module is as bad.
func TestModuleThatOthersCanExchange(t *testing.T) {
	s := newSite(t)
	s.ownModule()
	if err := os.Chmod(filepath.Dir(s.c.Module), 0o770); err != nil {
		t.Fatal(err)
	}
	out, _, status := s.run("check", "--config", s.path("hsm.yaml"))
	if status != statusFailed || !strings.Contains(out, "module: module refused: ") || !strings.Contains(out, "can be written by others") {
		t.Errorf("status %d: %s", status, out)
	}
}
