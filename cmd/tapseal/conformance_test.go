package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/hsm/scratch"
)

const publishedVectors = "../../testdata/vectors/"

// runConformance runs the command with tapseal-hsm on the PATH.
func runConformance(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = run(append([]string{"conformance"}, args...), streams{in: strings.NewReader(""), out: &o, err: &e})
	return status, o.String(), e.String()
}

func hsmOnPath(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir, "github.com/tapseal/tapseal/cmd/tapseal-hsm")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building tapseal-hsm: %v\n%s", err, out)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestConformance(t *testing.T) {
	hsmOnPath(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	bad := filepath.Join(temp, "bad.json")
	if err := os.WriteFile(bad, []byte(`{"vectors": [{"id": "x", "op": "pad", "odd": 1}, {"id": "y", "op": "cvv"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args      []string
		status    int
		out, errs string // out: how it ends
	}{
		"passed":         {[]string{publishedVectors + "arqc.json", publishedVectors + "arpc.json"}, 0, "\n45 passed, 0 failed, 0 skipped\n", ""},
		"failed":         {[]string{publishedVectors + "pad.json", bad}, 1, "\n0 passed, 2 failed, 1 skipped\n", ""},
		"no files":       {nil, 2, "", "hint"},
		"no slot":        {[]string{"--module", "x.so", bad}, 2, "", "needs a slot and a pin file"},
		"slot alone":     {[]string{"--slot", "1", bad}, 2, "", "belong to a token that is given"},
		"no such module": {[]string{"--module", "x.so", "--slot", "1", "--pin-file", bad, bad}, 2, "", "x.so"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, out, errs := runConformance(tt.args...)
			if status != tt.status || !strings.HasSuffix(out, tt.out) || !strings.Contains(errs, tt.errs) {
				t.Errorf("status %d, want %d\n%s%s", status, tt.status, out, errs)
			}
		})
	}
	if left, err := filepath.Glob(filepath.Join(temp, scratch.DirPrefix+"*")); err != nil || len(left) > 0 {
		t.Errorf("%d temporary directories are left (%v)", len(left), err)
	}
}

// TestConformanceOnGivenToken: a token of somebody else gets no objects.
func TestConformanceOnGivenToken(t *testing.T) {
	hsmOnPath(t)
	module, err := scratch.FindSoftHSM()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tokens, conf, pin := filepath.Join(dir, "tokens"), filepath.Join(dir, "conf"), filepath.Join(dir, "pin")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\n", tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pin, []byte("24681357"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	said, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "theirs", "--pin", "24681357", "--so-pin", "13572468").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	slot := regexp.MustCompile(`slot (\d+)`).FindSubmatch(said)
	if slot == nil {
		t.Fatalf("no slot in %q", said)
	}
	before := filesUnder(t, tokens)
	status, out, errs := runConformance("--module", module, "--slot", string(slot[1]), "--pin-file", pin, publishedVectors+"arqc.json")
	if status != 0 || !strings.HasSuffix(out, "\n21 passed, 0 failed, 0 skipped\n") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	if after := filesUnder(t, tokens); strings.Join(before, " ") != strings.Join(after, " ") {
		t.Errorf("the token has other files than before: %d, now %d", len(before), len(after))
	}
}

func filesUnder(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
