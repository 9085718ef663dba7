package secrets

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// devvault is the path of the OpenBao core that tests start.
var devvault string

func TestMain(m *testing.M) {
	path, err := buildDevvault()
	if err != nil {
		fmt.Fprintln(os.Stderr, "building devvault:", err)
		os.Exit(1)
	}
	devvault = path
	goleak.VerifyTestMain(m)
}

// buildDevvault builds it once; scripts/tool keeps it next to Go's build cache.
func buildDevvault() (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command("../../scripts/tool", "devvault")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}
