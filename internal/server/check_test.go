package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/config"
)

// snapshot lists every file below dir with its size and time.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && !strings.Contains(path, "journal/") {
			all[path] = info.Mode().String() + info.ModTime().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCheck(t *testing.T) {
	r := newRig(t, "visa", func(r *rig) {
		r.write("assignments.yaml", "assignments:\n  - name: test\n    bins: [\"12345678901\"]\n    scheme: visa\n"+
			"    profiles: [visa-cvn18]\n    icc_key_option: A\n    keys:\n      - {dki: \"01\", key_set: test, version: 1}\n")
	})
	cfg := r.cfg
	cfg.Listen, cfg.Metrics = "127.0.0.1:7443", config.Listener{}
	data, err := cfg.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r.write("good.yaml", string(data))
	before := snapshot(t, r.dir)
	good := Check(context.Background(), r.path("good.yaml"))
	if !good.OK || len(good.Findings) != 3 || good.Findings[0].Level != LevelWarning { // the certificates are for a day
		t.Errorf("a good configuration: %+v", good)
	}
	if len(good.Keys) != 1 || good.Keys[0].State != "active" {
		t.Errorf("keys %+v", good.Keys)
	}
	if diff := cmp.Diff(before, snapshot(t, r.dir)); diff != "" {
		t.Errorf("check changed something:\n%s", diff)
	}
	for _, c := range []struct {
		name, key, problem string
		config             func(string) string
	}{
		{"no file", "config", "no such file", nil},
		{"two faults", "tls.key", "is required", func(s string) string {
			return strings.Replace(strings.Replace(s, r.path("server.key"), "", 1), "127.0.0.1:7443", "x", 1)
		}},
		{"unknown key", "config", "colour", func(s string) string { return s + "colour: red\n" }},
		{"key of another certificate", "tls.certificate", "private key does not match", func(s string) string {
			return strings.Replace(s, "server.key", "client.key", 1)
		}},
		{"certificate of a client", "tls.certificate", "not for servers", func(s string) string {
			return strings.Replace(strings.Replace(s, "server.key", "client.key", 1), "server.crt", "client.crt", 1)
		}},
		{"authority that is none", "tls.client_ca", "not of an authority", func(s string) string {
			return strings.Replace(s, "ca.crt", "client.crt", 1)
		}},
		{"authority without PEM", "tls.client_ca", "no certificate", func(s string) string {
			return strings.Replace(s, r.path("ca.crt"), r.path("assignments.yaml"), 1)
		}},
		{"no workers", "hsm.socket_dir", "no worker answers", func(s string) string {
			return strings.Replace(s, r.path("run"), r.dir, 1)
		}},
		{"journal is a file", "journal.dir", "not a directory", func(s string) string {
			return strings.Replace(s, r.path("journal"), r.path("ca.crt"), 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := r.path("bad.yaml")
			_ = os.Remove(path)
			if c.config != nil {
				r.write("bad.yaml", c.config(string(data)))
			}
			wantFinding(t, Check(context.Background(), path), c.key, c.problem)
		})
	}
}

func TestCheckKeys(t *testing.T) {
	r := newRig(t, "visa") // version 2 is suspended, version 3 is nowhere
	cfg := r.cfg
	cfg.Listen, cfg.Metrics = "127.0.0.1:7443", config.Listener{}
	data, err := cfg.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r.write("bad.yaml", string(data))
	got := Check(context.Background(), r.path("bad.yaml"))
	wantFinding(t, got, "assignments", "test version 2 is suspended")
	wantFinding(t, got, "assignments", "test version 3 is not served")
}

func wantFinding(t *testing.T, r Report, key, problem string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Key == key && f.Level == LevelError && strings.Contains(f.Problem, problem) && !r.OK {
			return
		}
	}
	t.Errorf("no error at %s with %q in %+v", key, problem, r)
}
