package devmode

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// SoftHSM would silently use another directory.
func TestDirectoryThatSoftHSMCannotRead(t *testing.T) {
	for _, name := range []string{"a=b", "dev#1"} {
		dir := filepath.Join(t.TempDir(), name)
		err := Run(t.Context(), Options{Dir: dir, Listen: "127.0.0.1:0", HSMBinary: "/nonexistent/tapseal-hsm"})
		if err == nil || !strings.Contains(err.Error(), "choose another directory") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was made: %v", name, err)
		}
	}
}
