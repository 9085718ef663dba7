package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

const testPIN = "98c4f2-secret"

func testBootstrap() *Bootstrap {
	return &Bootstrap{
		Mode: ModeServe, Slot: 3, Module: "/usr/lib/m.so", ModuleArgs: "a b", TokenLabel: "t", TokenSerial: "5",
		PIN: NewPIN([]byte(testPIN)), Manifest: []byte("deployment: x\n"), AllowedUIDs: []uint32{0, 1000},
		Guess: GuessPolicy{Mismatches: 5, Window: time.Minute}, ResidentKeys: true,
	}
}

func TestBootstrapRoundTrip(t *testing.T) {
	want := testBootstrap()
	var pipe bytes.Buffer
	if err := WriteBootstrap(&pipe, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadBootstrap(&pipe)
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Comparer(func(a, b PIN) bool { return bytes.Equal(a.Reveal(), b.Reveal()) })
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Error(diff)
	}
}

func TestPINDoesNotShowItself(t *testing.T) {
	b := testBootstrap()
	var logged bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&logged, nil))
	log.Info("x", "pin", b.PIN, "bootstrap", b, "inside", *b)
	text := slog.New(slog.NewTextHandler(&logged, nil))
	text.Info("x", "pin", b.PIN, "bootstrap", b, "inside", *b)
	shown := []string{logged.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, b.PIN), fmt.Sprintf(verb, b), fmt.Sprintf(verb, *b))
	}
	if _, err := json.Marshal(b); err == nil {
		t.Error("a bootstrap with a PIN marshals to JSON by accident")
	}
	if _, err := yaml.Marshal(map[string]any{"pin": b.PIN}); err == nil {
		t.Error("a PIN marshals to YAML")
	}
	for _, s := range shown {
		for _, secret := range []string{testPIN, fmt.Sprintf("%x", testPIN), "57 56 99"} {
			if strings.Contains(s, secret) {
				t.Fatalf("the PIN is shown in %d characters of output", len(s))
			}
		}
	}
}

func TestPINWipe(t *testing.T) {
	p := NewPIN([]byte(testPIN))
	inside := p.Reveal()
	p.Wipe()
	if !p.IsZero() || !bytes.Equal(inside, make([]byte, len(testPIN))) {
		t.Error("the PIN is still in memory")
	}
}

func FuzzReadBootstrap(f *testing.F) {
	var pipe bytes.Buffer
	if err := WriteBootstrap(&pipe, testBootstrap()); err != nil {
		f.Fatal(err)
	}
	f.Add(pipe.Bytes())
	f.Add([]byte(`{"mode":1}`))
	f.Add([]byte(`{"mode":1}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ReadBootstrap(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteBootstrap(&again, b); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadBootstrap(&again); err != nil {
			t.Fatal("what was written does not read")
		}
	})
}

func TestReadBootstrapRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"empty":          "",
		"cut off":        `{"mode":1,"pin":"c2Vj`,
		"no mode":        `{}`,
		"unknown mode":   `{"mode":9}`,
		"unknown field":  `{"mode":1,"exec":"x"}`,
		"two values":     `{"mode":1}{"mode":1}`,
		"trailing bytes": `{"mode":1} x`,
	} {
		if _, err := ReadBootstrap(strings.NewReader(in)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("%s: the error has the content", name)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte(`{"ready":{"proved":"00"}}`))
	f.Add([]byte(`{"failed":{"kind":"pin-refused","detail":"x"}}`))
	f.Add([]byte(`{"beat":{"served":1,"refused":0,"busy_ns":5,"crossings":1,"connections":1}}`))
	f.Add([]byte(`{"beat":{},"ready":{}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseReport(line)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := (&reporter{w: &out}).send(r); err != nil {
			t.Fatal(err)
		}
		again, err := ParseReport(bytes.TrimSuffix(out.Bytes(), []byte("\n")))
		if err != nil {
			t.Fatal("what was written does not read")
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzParseOrder(f *testing.F) {
	f.Add([]byte(`{"order":"go"}`))
	f.Add([]byte(`{"order":"drain"}`))
	f.Add([]byte(`{"order":"unlock"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if o, err := ParseOrder(line); err == nil && o != OrderGo && o != OrderDrain {
			t.Fatalf("accepted %q", o)
		}
	})
}

func TestParseReportRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":       `{}`,
		"two things":    `{"ready":{"proved":"x"},"beat":{}}`,
		"unknown kind":  `{"failed":{"kind":"whatever","detail":""}}`,
		"negative time": `{"beat":{"busy_ns":-1}}`,
		"unknown field": `{"ready":{"proved":"x"},"pin":"1"}`,
	} {
		if _, err := ParseReport([]byte(in)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
