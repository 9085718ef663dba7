package scratch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// softHSMPlaces are where distributions install the module: Debian and Ubuntu,
// their multiarch copies, Fedora, and a build from source.
func softHSMPlaces() []string {
	return []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib64/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
	}
}

// FindSoftHSM is the path of the SoftHSM module.
func FindSoftHSM() (string, error) {
	for _, p := range softHSMPlaces() {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("SoftHSM is not installed: none of %s exists (hint: apt install softhsm2)",
		strings.Join(softHSMPlaces(), ", "))
}

// CheckSoftHSMPath refuses a path that SoftHSM would read wrongly from its
// configuration, where '=' ends a name, '#' begins a comment, and nothing can
// be quoted.
func CheckSoftHSMPath(path string) error {
	if i := strings.IndexAny(path, "=#\r\n"); i >= 0 {
		return fmt.Errorf("SoftHSM cannot use a path with %q in it: %q", path[i], path)
	}
	return nil
}

func writeSoftHSMConfig(dir string) (string, error) {
	if err := CheckSoftHSMPath(dir); err != nil {
		return "", fmt.Errorf("%w (hint: set TMPDIR)", err)
	}
	tokens := filepath.Join(dir, "tokens")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return "", err
	}
	conf := filepath.Join(dir, "softhsm2.conf")
	text := "directories.tokendir = " + tokens + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
	return conf, os.WriteFile(conf, []byte(text), 0o600)
}
