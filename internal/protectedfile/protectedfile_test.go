package protectedfile

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadSaysWhoCanWrite(t *testing.T) {
	for _, c := range []struct {
		mode os.FileMode
		want string // "" is nobody else
	}{
		{0o400, ""},
		{0o600, ""},
		{0o640, ""},
		{0o644, ""},
		{0o755, ""},
		{0o620, "can be written by others (mode 0620)"},
		{0o660, "can be written by others (mode 0660)"},
		{0o602, "can be written by others (mode 0602)"},
		{0o666, "can be written by others (mode 0666)"},
	} {
		data, open, err := Read(write(t, c.mode), 100)
		if err != nil || string(data) != "12345" {
			t.Errorf("%04o: %q, %v", c.mode, data, err)
		}
		if (open == nil) != (c.want == "") || open != nil && !strings.Contains(open.Error(), c.want) {
			t.Errorf("%04o: %v, want %q", c.mode, open, c.want)
		}
	}
}

func TestReadSaysWhoOwns(t *testing.T) {
	path := write(t, 0o640)
	if os.Geteuid() == 0 { // only root can give a file away
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, open, err := Read(path, 100); err != nil || open == nil || !strings.Contains(open.Error(), "belongs to another user") {
			t.Errorf("another user's: %v, %v", open, err)
		}
		return
	}
	info, err := os.Stat("/etc/passwd") // root's is as good as our own
	if err != nil {
		t.Fatal(err)
	}
	if open := Check(info); open != nil {
		t.Error(open)
	}
}

func TestReadIsBounded(t *testing.T) {
	path := write(t, 0o600)
	for maxBytes, want := range map[int64]string{0: "1", 3: "1234", 4: "12345", 5: "12345"} {
		if data, _, err := Read(path, maxBytes); err != nil || string(data) != want {
			t.Errorf("at most %d: %q, %v", maxBytes, data, err)
		}
	}
}

func TestReadTakesOnlyFiles(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe, "/dev/zero", filepath.Join(dir, "none")} {
		data, open, err := Read(path, 100)
		if err == nil || data != nil || open != nil {
			t.Errorf("%s: %q, %v, %v", path, data, open, err)
		}
	}
}
