package secret

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadFileTakes(t *testing.T) {
	for _, content := range []string{planted, planted + "\n", planted + "\r\n"} {
		for _, mode := range []os.FileMode{0o600, 0o400} {
			s, err := ReadPIN(write(t, content, mode))
			if err != nil || !s.Equal(New([]byte(planted))) {
				t.Errorf("%q with mode %o: %v", content, mode, err)
			}
		}
	}
	longest := strings.Repeat("1", MaxPINBytes)
	if s, err := ReadPIN(write(t, longest+"\r\n", 0o600)); err != nil || !s.Equal(New([]byte(longest))) {
		t.Errorf("the longest: %v", err)
	}
	if s, err := ReadDocument(write(t, "a\nb\n", 0o600)); err != nil || !s.Equal(New([]byte("a\nb\n"))) {
		t.Errorf("document: %v", err)
	}
}

func TestReadFileRefuses(t *testing.T) {
	dir := t.TempDir()
	link, pipe := filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.Symlink(write(t, planted, 0o600), link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, want string }{
		"nothing named":    {"", "is required"},
		"nothing there":    {filepath.Join(dir, "none"), "no such file"},
		"group may read":   {write(t, planted, 0o640), "mode is 0640"},
		"others may read":  {write(t, planted, 0o604), "mode is 0604"},
		"others may write": {write(t, planted, 0o602), "mode is 0602"},
		"group may run":    {write(t, planted, 0o610), "mode is 0610"},
		"link":             {link, "is a link"},
		"pipe":             {pipe, "is not a file"},
		"directory":        {dir, "is not a file"},
		"empty":            {write(t, "", 0o600), "is empty"},
		"line end only":    {write(t, "\n", 0o600), "is empty"},
		"two lines":        {write(t, planted+"\nx\n", 0o600), "more than one line"},
		"two line ends":    {write(t, planted+"\n\n", 0o600), "more than one line"},
		"zero byte":        {write(t, planted+"\x00", 0o600), "more than one line"},
		"too long":         {write(t, strings.Repeat("1", MaxPINBytes+1), 0o600), "longer than 255 bytes"},
		"much too long":    {write(t, strings.Repeat("1", 1<<20), 0o600), "longer than"},
	} {
		s, err := ReadPIN(c.path)
		if err == nil || !strings.Contains(err.Error(), c.want) || !s.IsZero() {
			t.Errorf("%s: %v, want %q", name, err, c.want)
			continue
		}
		if leaks(err.Error()) || c.path != "" && strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: content or path in %v", name, err)
		}
	}
}

type owned struct {
	os.FileInfo
	uid uint32
}

func (o owned) Sys() any { return &syscall.Stat_t{Uid: o.uid} }

func TestOwnerIsChecked(t *testing.T) {
	info, err := os.Stat(write(t, planted, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]bool{0: true, uint32(os.Geteuid()): true, uint32(os.Geteuid()) + 1: false} {
		if got := checkPrivate(owned{info, uid}) == nil; got != want {
			t.Errorf("uid %d: accepted %v", uid, got)
		}
	}
}

func TestWriteFile(t *testing.T) {
	path := write(t, "before", 0o600)
	if err := WriteFile(path, New([]byte(planted))); err != nil {
		t.Fatal(err)
	}
	s, err := ReadPIN(path)
	if err != nil || !s.Equal(New([]byte(planted))) {
		t.Errorf("read back: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("left over: %v %v", entries, err)
	}
	if err := WriteFile(filepath.Join(t.TempDir(), "none", "file"), New([]byte(planted))); err == nil {
		t.Error("wrote into no directory")
	}
}

func TestCheckDirectory(t *testing.T) {
	dir := t.TempDir()
	for mode, want := range map[os.FileMode]bool{0o700: true, 0o750: true, 0o755: true, 0o770: false, 0o702: false, 0o777: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := CheckDirectory(dir); (err == nil) != want {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if CheckDirectory(write(t, "", 0o600)) == nil || CheckDirectory(filepath.Join(dir, "none")) == nil {
		t.Error("not a directory is accepted")
	}
}
