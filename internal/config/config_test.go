package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSampleIsCompleteAndItsValuesAreTheDefaults(t *testing.T) {
	d, err := ParseDaemon([]byte(SampleDaemon()))
	if err != nil {
		t.Fatal(err)
	}
	bare := *d
	bare.Limits, bare.DefaultTimeoutMS, bare.DrainTimeoutMS, bare.TLS.RefreshSec = Limits{}, 0, 0, 0
	bare.Complete()
	if diff := cmp.Diff(*d, bare); diff != "" {
		t.Errorf("the sample differs from the defaults:\n%s", diff)
	}
	full := *d
	full.Profiling, full.Limits.ConnectionAgeSec, full.Limits.IdleSec = true, 1, 1
	data, err := full.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		key, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		if !strings.Contains(SampleDaemon(), key+":") {
			t.Errorf("the sample does not explain %q", key)
		}
	}
}

func TestMarshalIsReadBack(t *testing.T) {
	want, err := ParseDaemon([]byte(SampleDaemon()))
	if err != nil {
		t.Fatal(err)
	}
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseDaemon(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPathsAreRelativeToTheFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "tapseald.yaml")
	if err := os.WriteFile(path, []byte(SampleDaemon()), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := LoadDaemon(path)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{d.TLS.Certificate, d.TLS.Key, d.TLS.ClientCA, d.Policy, d.Admin.ClientCA, d.Assignments, d.HSM.SocketDir, d.Journal.Dir}
	for i, rel := range []string{"tls/server.crt", "tls/server.key", "tls/callers-ca.crt", "policy.yaml", "tls/administrators-ca.crt", "assignments.yaml", "run", "journal"} {
		if want := filepath.Join(dir, rel); got[i] != want {
			t.Errorf("path %s, want %s", got[i], want)
		}
	}
}

func TestFaultsNameTheirKey(t *testing.T) {
	replace := func(old, with string) string {
		out := strings.Replace(SampleDaemon(), old, with, 1)
		if out == SampleDaemon() {
			t.Fatalf("nothing to replace: %q", old)
		}
		return out
	}
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "no YAML document"},
		{"unknown key", SampleDaemon() + "\nlisten_on: x\n", "listen_on"},
		{"unknown inner key", replace("  key: tls/server.key", "  keyfile: tls/server.key"), "keyfile"},
		{"duplicate key", SampleDaemon() + "\nlisten: 127.0.0.1:1\n", "listen"},
		{"second document", SampleDaemon() + "\n---\nlisten: 127.0.0.1:1\n", "more than one"},
		{"missing key", replace("  key: tls/server.key", ""), "tls.key: is required"},
		{"bad address", replace("listen: 127.0.0.1:7443", "listen: localhost"), "listen: must be host:port"},
		{"bad port", replace("listen: 127.0.0.1:7443", "listen: 127.0.0.1:70000"), "listen: port"},
		{"timeout", replace("default_timeout_ms: 250", "default_timeout_ms: 10001"), "default_timeout_ms: must be 1 to 10000"},
		{"negative", replace("streams: 256", "streams: -1"), "limits.streams: must be 1"},
		{"stream over all", replace("taps_in_stream: 1024", "taps_in_stream: 9000"), "limits.taps_in_stream: must not exceed"},
		{"wrong type", replace("connections: 256", "connections: many"), "does not fit"},
		{"profiling in the open", replace("listen: 127.0.0.1:9443", "listen: 0.0.0.0:9443\n") + "\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			file, want := c.file, c.want
			if want == "" {
				file, want = strings.Replace(file, "profiling: false", "profiling: true", 1), "profiling: needs metrics.listen on a loopback address"
			}
			_, err := ParseDaemon([]byte(file))
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q in it", err, want)
			}
		})
	}
}
