package keys

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLoad: both files are taken only if nobody else could have changed them.
func TestLoad(t *testing.T) {
	for _, kind := range []struct {
		what, text string
		load       func(string) error
	}{
		{"assignments", goodAssignments, func(path string) error { _, err := LoadAssignments(path); return err }},
		{"key manifest", goodManifest, func(path string) error { _, err := LoadManifest(path); return err }},
	} {
		t.Run(kind.what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file.yaml")
			refused := func(want string) {
				t.Helper()
				err := kind.load(path)
				if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), kind.what) || !strings.Contains(err.Error(), path) {
					t.Errorf("got %v, want %q and the file in it", err, want)
				}
			}
			refused("no such file")
			if err := os.WriteFile(path, []byte(kind.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for mode, want := range map[os.FileMode]string{
				0o400: "", 0o600: "", 0o640: "", 0o644: "",
				0o620: "can be written by others", 0o660: "can be written by others", 0o602: "can be written by others",
			} {
				if err := os.Chmod(path, mode); err != nil {
					t.Fatal(err)
				}
				if want != "" {
					refused(want)
				} else if err := kind.load(path); err != nil {
					t.Errorf("mode %04o: %v", mode, err)
				}
			}
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
			if os.Geteuid() == 0 { // only root can give a file away
				if err := os.Chown(path, 12345, -1); err != nil {
					t.Fatal(err)
				}
				refused("belongs to another user")
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
			refused("is not a regular file")
		})
	}
}
