package softhsmconfig

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// noProgram makes every attempt to start the admin role fail.
const noProgram = "/nonexistent/tapseal-hsm"

func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		b.WriteString(info.Mode().String() + " " + info.ModTime().String() + " " + path + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestForeignDirectoryIsLeftAlone(t *testing.T) {
	for name, file := range map[string]string{
		"file":        "thesis.txt",
		"our names":   "keys.yaml",
		"tokens":      "tokens",
		"hidden file": ".profile",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, file), []byte("mine"), 0o600); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			if _, _, err := Prepare(context.Background(), dir, Options{HSMBinary: noProgram}); !errors.Is(err, ErrForeign) {
				t.Errorf("got %v, want ErrForeign", err)
			}
			if after := tree(t, dir); after != before {
				t.Errorf("changed:\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestDirectoryThatSoftHSMCannotRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a=b")
	if _, _, err := Prepare(context.Background(), dir, Options{HSMBinary: noProgram}); err == nil || !strings.Contains(err.Error(), `'='`) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
}

func TestMarkerOfAnotherKindIsRefused(t *testing.T) {
	for name, content := range map[string]string{
		"future format": `{"format":2,"complete":true}`,
		"no JSON":       `complete`,
		"empty":         ``,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, markerName), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			before := tree(t, dir)
			if _, _, err := Prepare(context.Background(), dir, Options{HSMBinary: noProgram}); err == nil {
				t.Error("accepted")
			}
			if after := tree(t, dir); after != before {
				t.Errorf("changed:\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestFailedAttemptStaysIncomplete(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dev")
	if _, _, err := Prepare(context.Background(), dir, Options{HSMBinary: noProgram}); err == nil {
		t.Fatal("prepared without the admin role")
	}
	m, ours, err := Layout{Dir: dir}.readMarker()
	if err != nil || !ours || m.Complete {
		t.Errorf("marker %+v, ours %v, %v; want ours and incomplete", m, ours, err)
	}
}

func TestCutOffMarkerIsNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, markerName+nextSuffix), []byte(`{"for`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ours, err := (Layout{Dir: dir}).readMarker(); err != nil || ours {
		t.Errorf("ours %v, %v; want a directory like an empty one", ours, err)
	}
}

func TestReplaceFileKeepsTheMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secret")
	for _, content := range []string{"one", "two"} {
		if err := ReplaceFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil || string(data) != content {
			t.Errorf("content %q, %v", data, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("mode %o", got)
		}
	}
}
