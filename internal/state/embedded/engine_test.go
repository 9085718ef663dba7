package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

func open(t testing.TB, dir string, o Options) *Engine {
	t.Helper()
	e, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func fresh(t testing.TB) *Engine {
	t.Helper()
	return open(t, filepath.Join(t.TempDir(), "state"), Options{})
}

func TestConformance(t *testing.T) {
	statetest.Conformance(t, func(t *testing.T) state.Engine { return fresh(t) })
}

func TestDirectoryIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	e := open(t, dir, Options{})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	_, err = Open(dir, Options{})
	if err == nil || !strings.HasSuffix(err.Error(), "it is in use by another process") {
		t.Fatalf("opened twice: %v", err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[os.FileMode]string{0o750: "mode is 0750", 0o705: "mode is 0705", 0o770: "can be written by others"} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%04o: %v", mode, err)
		}
		if _, err := Check(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	link, file := dir+".link", dir+".file"
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{link: "is not a directory", file: "is not a directory", dir + "/none/none": "no such file"} {
		if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if os.Geteuid() == 0 { // only root can give it away
		if err := os.Chown(dir, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "belongs to another user") {
			t.Error(err)
		}
	}
}

func TestNewerLayoutIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	e := open(t, dir, Options{})
	b := e.db.NewBatch()
	_ = b.Set(keyIdentity[:], append([]byte{layout + 1}, make([]byte, 16)...), nil)
	if err := errors.Join(b.Commit(nil), e.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Error(err)
	}
}
