package clientcontext

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarshalAndLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	c := Context{
		Address: "127.0.0.1:7443",
		TLS:     TLS{CA: "tls/ca.pem", Certificate: "tls/client.pem", Key: "/elsewhere/key.pem"},
		Phone:   "phone",
	}
	data, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := &Context{
		Address: "127.0.0.1:7443",
		TLS: TLS{
			CA: filepath.Join(dir, "tls/ca.pem"), Certificate: filepath.Join(dir, "tls/client.pem"), Key: "/elsewhere/key.pem",
		},
		Phone: filepath.Join(dir, "phone"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	const tls = "tls: {ca: a, certificate: b, key: c}\n"
	for name, tt := range map[string]struct{ yaml, names string }{
		"no address":         {tls, "address"},
		"address no port":    {"address: localhost\n" + tls, "address"},
		"no ca":              {"address: localhost:1\ntls: {certificate: b, key: c}", "tls.ca"},
		"no certificate":     {"address: localhost:1\ntls: {ca: b, key: c}", "tls.certificate"},
		"no key":             {"address: localhost:1\ntls: {ca: b, certificate: c}", "tls.key"},
		"unknown key":        {"adress: localhost:1\n" + tls, "adress"},
		"twice":              {"address: localhost:1\naddress: localhost:2\n" + tls, "address"},
		"insecure is no key": {"address: localhost:1\ninsecure: true\n" + tls, "insecure"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), FileName)
			if err := os.WriteFile(path, []byte(tt.yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(path); err == nil || !strings.Contains(err.Error(), tt.names) {
				t.Errorf("got %v, want an error that names %s", err, tt.names)
			}
		})
	}
}
