package conformance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tapseal/tapseal/hsm/scratch"
)

// buildDir is where the program under test is built, once for all tests.
var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "tapseal-conformance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status)
}

// program builds tapseal-hsm. It needs cgo even where these tests run without.
var program = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "tapseal-hsm")
	build := exec.Command("go", "build", "-o", path, "github.com/tapseal/tapseal/cmd/tapseal-hsm")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building tapseal-hsm: %w\n%s", err, out)
	}
	return path, nil
})

// A tokenCase is a module in the test matrix. Two vendors keep us honest.
type tokenCase struct {
	name    string
	options func(t testing.TB) scratch.Options
}

func tokenCases() []tokenCase {
	return []tokenCase{
		{"softhsm", func(testing.TB) scratch.Options { return scratch.Options{} }},
		{"nss", func(t testing.TB) scratch.Options {
			return scratch.Options{Module: findNSS(t), OwnNSS: true}
		}},
	}
}

func findNSS(t testing.TB) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/*/libsoftokn3.so", "/usr/lib/*/nss/libsoftokn3.so", "/usr/lib64/libsoftokn3.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("libsoftokn3.so is not installed (hint: apt install libnss3)")
	return ""
}

func startToken(t testing.TB, c tokenCase) Executor {
	t.Helper()
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	options := c.options(t)
	options.Binary = binary
	client, err := scratch.Start(context.Background(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return ScratchToken{Client: client}
}
