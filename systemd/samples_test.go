// Package systemd_test keeps the sample configurations and units right.
package systemd_test

import (
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/config"
)

func TestSamplesAreRead(t *testing.T) {
	if _, err := supervisor.LoadConfig("hsm.yaml"); err != nil {
		t.Errorf("hsm.yaml: %v", err)
	}
	if _, err := config.LoadDaemon("tapseald.yaml"); err != nil {
		t.Errorf("tapseald.yaml: %v", err)
	}
}

// Every key that the programs know is in the sample, with a comment above it
// or above the block of lines that it is in.
func TestSamplesHaveEveryKey(t *testing.T) {
	for file, of := range map[string]any{"hsm.yaml": supervisor.Config{}, "tapseald.yaml": config.Daemon{}} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range yamlKeys(reflect.TypeOf(of)) {
			line := regexp.MustCompile(`(?m)^(.*)\n *#?` + key + `:`).FindSubmatch(data)
			if line == nil {
				t.Errorf("%s has no %s", file, key)
			} else if strings.TrimSpace(string(line[1])) == "" {
				t.Errorf("%s: %s has no comment", file, key)
			}
		}
	}
}

func yamlKeys(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if f.Type.Kind() == reflect.Pointer && f.Type.Elem().Kind() == reflect.Struct {
			f.Type = f.Type.Elem()
		}
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, yamlKeys(f.Type)...)
			continue
		}
		keys = append(keys, name)
	}
	return keys
}

// systemd-analyze is asked where there is one. It also says that the programs
// are not installed, which is not the units' fault.
func TestUnitsAreUnderstood(t *testing.T) {
	for _, unit := range []string{"tapseald.service", "tapseal-hsm.service"} {
		data, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"NoNewPrivileges=yes", "ProtectSystem=strict", "LimitCORE=0", "MemoryDenyWriteExecute=yes", "Restart=on-failure"} {
			if !strings.Contains(string(data), "\n"+want+"\n") {
				t.Errorf("%s has no %s", unit, want)
			}
		}
		analyze, err := exec.LookPath("systemd-analyze")
		if err != nil {
			t.Logf("no systemd-analyze here: %v", err)
			continue
		}
		out, _ := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, unit) && !strings.Contains(line, "is not executable") {
				t.Errorf("systemd-analyze: %s", line)
			}
		}
	}
}
