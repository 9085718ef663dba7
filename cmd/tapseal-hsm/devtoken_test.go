package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/hsm/pkcs11"
	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

// A development token has a subject key from its beginning. One that was made
// before there were such keys gets it at its next start, once, and keeps its
// other keys.
func TestDevelopmentTokenHasASubjectKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	prepare := func(wantMade bool) *keys.Manifest {
		t.Helper()
		l, made, err := softhsmconfig.Prepare(context.Background(), dir, softhsmconfig.Options{HSMBinary: os.Args[0]})
		if err != nil || made != wantMade {
			t.Fatalf("made %t, error %v", made, err)
		}
		m, err := keys.LoadManifest(l.Manifest())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := prepare(true)
	if current, previous := first.SubjectKeys(); current.Number != 1 || previous.Number != 0 {
		t.Fatalf("versions %d and %d", current.Number, previous.Number)
	}
	if diff := cmp.Diff(first, prepare(false)); diff != "" {
		t.Errorf("a start changed the keys: %s", diff)
	}

	older := *first
	older.Sets = older.Sets[:len(older.Sets)-1] // the subject key comes last
	data, err := older.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	l := softhsmconfig.Layout{Dir: dir}
	if err := softhsmconfig.ReplaceFile(l.Manifest(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	mended := prepare(false)
	current, _ := mended.SubjectKeys()
	if was, _ := first.SubjectKeys(); current.Number != 1 || current.ID == was.ID {
		t.Error("no new subject key")
	}
	if diff := cmp.Diff(older.Sets, mended.Sets[:len(older.Sets)]); diff != "" {
		t.Errorf("other keys changed: %s", diff)
	}
	if diff := cmp.Diff(mended, prepare(false)); diff != "" {
		t.Errorf("a start changed the keys: %s", diff)
	}
	proveAll(t, l, mended)

	if err := softhsmconfig.ReplaceFile(l.Manifest(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.PIN(), []byte("00000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = softhsmconfig.Prepare(context.Background(), dir, softhsmconfig.Options{HSMBinary: os.Args[0]})
	if err == nil || !strings.Contains(err.Error(), "adding a subject key") {
		t.Errorf("with a wrong PIN: %v", err)
	}
}

func proveAll(t *testing.T, l softhsmconfig.Layout, m *keys.Manifest) {
	t.Helper()
	t.Setenv("SOFTHSM2_CONF", l.SoftHSMConf())
	kept, err := secret.ReadPIN(l.PIN())
	if err != nil {
		t.Fatal(err)
	}
	var pin []byte
	kept.Use(func(b []byte) { pin = append(pin, b...) })
	c, err := supervisor.LoadConfig(l.HSMConfig())
	if err != nil {
		t.Fatal(err)
	}
	token, err := pkcs11.Open(pkcs11.Config{Module: c.Module, TokenLabel: softhsmconfig.TokenLabel}, pin, m)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = token.Close() }()
	for _, set := range m.Sets {
		for _, v := range set.Versions {
			if err := token.Prove(v.ID); err != nil {
				t.Errorf("%s: %v", set.Name, err)
			}
		}
	}
}
