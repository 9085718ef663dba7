package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestConfigRoundTrip(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "hsm.yaml")
	in := Config{
		Module: "/m.so", TokenLabel: "t", PINFile: "pin", Manifest: "manifest.yaml",
		SocketDir: "run", StateDir: "/var/lib/x", Environment: map[string]string{"SOFTHSM2_CONF": "/c"},
	}
	data, err := in.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	want := in
	want.PINFile, want.Manifest, want.SocketDir = dir+"/pin", dir+"/manifest.yaml", dir+"/run"
	want.fillDefaults()
	if diff := cmp.Diff(&want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfigUnknownKeyIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hsm.yaml")
	if err := os.WriteFile(path, []byte("module: /m.so\npin: 1234\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig(path)
	if err == nil || !strings.Contains(err.Error(), `"pin"`) || strings.Contains(err.Error(), "1234") {
		t.Errorf("got %v", err)
	}
}

func TestValidateNamesTheKey(t *testing.T) {
	for _, tc := range []struct {
		key   string
		spoil func(*testing.T, *rig)
	}{
		{"module", func(_ *testing.T, r *rig) { r.c.Module = r.path("nothing.so") }},
		{"module", func(_ *testing.T, r *rig) { r.c.Module = "" }},
		{"module", func(t *testing.T, r *rig) { chmod(t, r.c.Module, 0o660) }},
		{"module", func(t *testing.T, r *rig) { chmod(t, r.dir, 0o770) }},
		{"module_sha256", func(_ *testing.T, r *rig) { r.c.ModuleSHA256 = "" }},
		{"module_sha256", func(_ *testing.T, r *rig) { r.c.ModuleSHA256 = r.c.ModuleSHA256[2:] }},
		{"module_sha256", func(_ *testing.T, r *rig) { r.write("module.so", "another") }},
		{"token_label", func(_ *testing.T, r *rig) { r.c.TokenLabel = "" }},
		{"environment", func(_ *testing.T, r *rig) { r.c.Environment["A=B"] = "x" }},
		{"pin_file", func(_ *testing.T, r *rig) { r.c.PINFile = "" }},
		{"pin_file", func(_ *testing.T, r *rig) { r.write("pin", "") }},
		{"pin_file", func(_ *testing.T, r *rig) { r.write("pin", "one\ntwo\n") }},
		{"pin_file", func(_ *testing.T, r *rig) { r.write("pin", strings.Repeat("1", 300)) }},
		{"pin_file", func(t *testing.T, r *rig) { chmod(t, r.path("pin"), 0o640) }},
		{"pin_file", func(t *testing.T, r *rig) { chmod(t, r.path("pin"), 0o604) }},
		{"manifest", func(_ *testing.T, r *rig) { r.c.Manifest = r.path("nothing") }},
		{"manifest", func(_ *testing.T, r *rig) { r.write("manifest.yaml", "deployment: x\nkey_sets: []\n") }},
		{"manifest", func(t *testing.T, r *rig) { chmod(t, r.path("manifest.yaml"), 0o666) }},
		{"manifest", func(t *testing.T, r *rig) { chmod(t, r.path("manifest.yaml"), 0o620) }},
		{"socket_dir", func(t *testing.T, r *rig) { mkdir(t, r.c.SocketDir, 0o755) }},
		{"socket_dir", func(_ *testing.T, r *rig) { r.c.SocketDir = r.path(strings.Repeat("x", 100)) }},
		{"state_dir", func(t *testing.T, r *rig) { mkdir(t, r.c.StateDir, 0o770) }},
		{"state_dir", func(_ *testing.T, r *rig) { r.c.StateDir = r.path("pin") }},
		{"workers", func(_ *testing.T, r *rig) { r.c.Workers = 1000 }},
		{"workers", func(_ *testing.T, r *rig) { r.c.Workers = -1 }},
		{"stuck_after_ms", func(_ *testing.T, r *rig) { r.c.StuckAfterMS = 10 }},
		{"environment", func(_ *testing.T, r *rig) { r.c.Environment["LD_PRELOAD"] = "/x.so" }},
		{"environment", func(_ *testing.T, r *rig) { r.c.Environment["LD_LIBRARY_PATH"] = "/x" }},
		{"environment", func(_ *testing.T, r *rig) { r.c.Environment["LD_AUDIT"] = "/x.so" }},
		{"environment", func(_ *testing.T, r *rig) { r.c.Environment["GODEBUG"] = "x=1" }},
		{"environment", func(_ *testing.T, r *rig) { r.c.Environment["GOTRACEBACK"] = "crash" }},
	} {
		r := newRig(t, nil)
		r.c.fillDefaults()
		if problems := r.c.Validate(); len(problems) != 0 {
			t.Fatalf("a good configuration has problems: %v", problems)
		}
		tc.spoil(t, r)
		problems := r.c.Validate()
		if len(problems) != 1 || problems[0].Key != tc.key {
			t.Errorf("want one problem with %s, got %v", tc.key, problems)
		}
		if _, err := New(r.c, r.options()); err == nil {
			t.Errorf("%s: the supervisor starts all the same", tc.key)
		} else if strings.Contains(err.Error(), testPIN) {
			t.Errorf("%s: the error has the PIN", tc.key)
		}
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	chmod(t, path, mode)
}

func TestValidateTakesOtherNames(t *testing.T) {
	r := newRig(t, nil)
	r.c.fillDefaults()
	r.c.Environment["OLD_PATH"], r.c.Environment["GODEBUGGER"] = "x", "x"
	if problems := r.c.Validate(); len(problems) != 0 {
		t.Error(problems)
	}
}
