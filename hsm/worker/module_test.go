package worker

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A module in a directory of its own, which the case spoils.
type moduleCase struct {
	t    *testing.T
	root string
}

func (c *moduleCase) path(name ...string) string {
	return filepath.Join(append([]string{c.root}, name...)...)
}

func (c *moduleCase) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func newModuleCase(t *testing.T) *moduleCase {
	c := &moduleCase{t: t, root: t.TempDir()}
	c.must(os.Chmod(c.root, 0o755))
	c.must(os.MkdirAll(c.path("lib", "hsm"), 0o755))
	c.must(os.WriteFile(c.path("lib", "hsm", "m.so"), []byte("module"), 0o644))
	return c
}

func TestHashModuleAcceptsAndRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(*moduleCase) string // gives the path
		refused string                   // empty: accepted
	}{
		"as it is": {func(c *moduleCase) string { return c.path("lib/hsm/m.so") }, ""},
		"a link to it": {func(c *moduleCase) string {
			c.must(os.Symlink("hsm/../hsm/m.so", c.path("lib/link.so")))
			return c.path("lib/link.so")
		}, ""},
		"an absolute link to its directory": {func(c *moduleCase) string {
			c.must(os.Symlink(c.path("lib/hsm"), c.path("short")))
			return c.path("short/m.so")
		}, ""},
		"in a sticky directory": {func(c *moduleCase) string {
			c.must(os.Chmod(c.path("lib"), 0o777|fs.ModeSticky))
			return c.path("lib/hsm/m.so")
		}, ""},
		"group may write it": {func(c *moduleCase) string {
			c.must(os.Chmod(c.path("lib/hsm/m.so"), 0o664))
			return c.path("lib/hsm/m.so")
		}, "m.so can be written by others"},
		"sticky is for directories": {func(c *moduleCase) string {
			c.must(os.Chmod(c.path("lib/hsm/m.so"), 0o646|fs.ModeSticky))
			return c.path("lib/hsm/m.so")
		}, "m.so can be written by others"},
		"group may write its directory": {func(c *moduleCase) string {
			c.must(os.Chmod(c.path("lib/hsm"), 0o775))
			return c.path("lib/hsm/m.so")
		}, "hsm can be written by others"},
		"anybody may write the directory above": {func(c *moduleCase) string {
			c.must(os.Chmod(c.path("lib"), 0o757))
			return c.path("lib/hsm/m.so")
		}, "lib can be written by others"},
		"a link out of a directory of everybody": {func(c *moduleCase) string {
			c.must(os.Mkdir(c.path("open"), 0o755))
			c.must(os.Symlink(c.path("lib/hsm/m.so"), c.path("open/m.so")))
			c.must(os.Chmod(c.path("open"), 0o777))
			return c.path("open/m.so")
		}, "open can be written by others"},
		"a link into a directory of everybody": {func(c *moduleCase) string {
			c.must(os.Symlink(c.path("lib/hsm"), c.path("short")))
			c.must(os.Chmod(c.path("lib/hsm"), 0o777))
			return c.path("short/m.so")
		}, "hsm can be written by others"},
		"a link to itself": {func(c *moduleCase) string {
			c.must(os.Symlink("round", c.path("round")))
			return c.path("round")
		}, "too many symbolic links"},
		"a directory":     {func(c *moduleCase) string { return c.path("lib/hsm") }, "is not a file"},
		"a relative path": {func(*moduleCase) string { return "lib/hsm/m.so" }, "not absolute"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newModuleCase(t)
			got, err := HashModule(tc.change(c))
			if tc.refused == "" {
				if err != nil || got != ModuleHash(sha256.Sum256([]byte("module"))) {
					t.Errorf("%s, %v", got, err)
				}
				return
			}
			if !errors.Is(err, ErrModuleRefused) || !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("got %v, want %q", err, tc.refused)
			}
		})
	}
}

// Only root can give a file away; others see the rule at work on the answer of
// stat.
func TestModuleOfSomebodyElse(t *testing.T) {
	const stranger = 12345
	c := newModuleCase(t)
	path := c.path("lib/hsm/m.so")
	info, err := os.Stat(path)
	c.must(err)
	if err := ownedBy(path, given{info, &syscall.Stat_t{Uid: stranger}}, os.Geteuid()); !errors.Is(err, ErrModuleRefused) {
		t.Errorf("a stranger's file: %v", err)
	}
	if err := ownedBy(path, given{info, &syscall.Stat_t{Uid: stranger}}, stranger); err != nil {
		t.Errorf("one's own file: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	for _, name := range []string{"lib/hsm/m.so", "lib/hsm", "lib"} {
		c := newModuleCase(t)
		c.must(os.Chown(c.path(name), stranger, stranger))
		if _, err := HashModule(c.path("lib/hsm/m.so")); !errors.Is(err, ErrModuleRefused) || !strings.Contains(err.Error(), "belongs to user id") {
			t.Errorf("%s of a stranger: %v", name, err)
		}
	}
}

type given struct {
	fs.FileInfo
	stat *syscall.Stat_t
}

func (g given) Sys() any { return g.stat }

func TestCheckModule(t *testing.T) {
	c := newModuleCase(t)
	path := c.path("lib/hsm/m.so")
	want, err := HashModule(path)
	c.must(err)
	if err := CheckModule(path, want); err != nil {
		t.Error(err)
	}
	if err := CheckModule(path, ModuleHash{}); !errors.Is(err, ErrModuleRefused) || !strings.Contains(err.Error(), want.String()) {
		t.Errorf("no pin: %v", err)
	}
	c.must(os.WriteFile(path, []byte("modulE"), 0o644))
	if err := CheckModule(path, want); !errors.Is(err, ErrModuleRefused) {
		t.Errorf("another file: %v", err)
	}
	c.must(os.Remove(path))
	if err := CheckModule(path, want); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestParseModuleHash(t *testing.T) {
	digits := strings.Repeat("0aF9", 16)
	h, err := ParseModuleHash(digits)
	if err != nil || h.String() != strings.ToLower(digits) {
		t.Errorf("%s, %v", h, err)
	}
	for _, bad := range []string{"", "00", digits + "00", digits[1:], strings.Repeat("g", 64)} {
		if _, err := ParseModuleHash(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
}
