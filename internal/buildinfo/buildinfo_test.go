package buildinfo

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRead(t *testing.T) {
	build := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "c0ffee"}
	for name, tt := range map[string]struct {
		release string
		build   *debug.BuildInfo
		want    Info
	}{
		"release":        {"v1.2.3", build("(devel)", revision), Info{Version: "v1.2.3", Revision: "c0ffee"}},
		"from its tag":   {"", build("v1.2.3"), Info{Version: "v1.2.3"}},
		"no repository":  {"", build("(devel)"), Info{Version: "devel"}},
		"nothing at all": {"", build(""), Info{Version: "devel"}},
		"modified": {
			"", build("v0.0.0-1+dirty", revision, debug.BuildSetting{Key: "vcs.modified", Value: "true"}),
			Info{Version: "v0.0.0-1+dirty", Revision: "c0ffee", Modified: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.Go = runtime.Version()
			if diff := cmp.Diff(tt.want, read(tt.release, tt.build)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPrintIsOneLine(t *testing.T) {
	for _, asJSON := range []bool{false, true} {
		var b bytes.Buffer
		if err := Print(&b, "program", asJSON); err != nil {
			t.Fatal(err)
		}
		if strings.Count(b.String(), "\n") != 1 || !strings.HasSuffix(b.String(), "\n") {
			t.Errorf("%q", b.String())
		}
		if asJSON != json.Valid(b.Bytes()) || asJSON == strings.HasPrefix(b.String(), "program ") {
			t.Errorf("%q", b.String())
		}
	}
}

// TestLinkerSetsTheVersion also keeps scripts/build in step with the name.
func TestLinkerSetsTheVersion(t *testing.T) {
	const name = "github.com/tapseal/tapseal/internal/buildinfo.version"
	script, err := os.ReadFile(filepath.Join("..", "..", "scripts", "build"))
	if err != nil || !bytes.Contains(script, []byte("-X "+name+"=")) {
		t.Errorf("scripts/build does not set %s: %v", name, err)
	}
	program := filepath.Join(t.TempDir(), "tapseal")
	out, err := exec.Command("go", "build", "-ldflags", "-X "+name+"=v9.8.7", "-o", program, "../../cmd/tapseal").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err = exec.Command(program, "version", "--json").CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte(`{"version":"v9.8.7",`)) {
		t.Errorf("%v: %s", err, out)
	}
}
