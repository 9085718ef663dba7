package worker

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tapseal/tapseal/internal/secret"
)

const testPIN = "98c4f2-secret"

func testBootstrap() *Bootstrap {
	return &Bootstrap{
		Mode: ModeServe, Slot: 3, Module: "/usr/lib/m.so", ModuleHash: ModuleHash{1, 2}, ModuleArgs: "a b", TokenLabel: "t", TokenSerial: "5",
		PIN: secret.New([]byte(testPIN)), Manifest: []byte("deployment: x\n"), AllowedUIDs: []uint32{0, 1000},
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
	same := cmp.Comparer(func(a, b secret.Secret) bool { return a.Equal(b) })
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
	for _, marshal := range []func(any) ([]byte, error){json.Marshal, yaml.Marshal} {
		data, err := marshal(map[string]any{"bootstrap": b})
		if err != nil {
			t.Error(err)
		}
		shown = append(shown, string(data))
	}
	for _, s := range shown {
		for _, secret := range []string{testPIN, fmt.Sprintf("%x", testPIN), "57 56 99", base64.StdEncoding.EncodeToString([]byte(testPIN))} {
			if strings.Contains(s, secret) {
				t.Fatalf("the PIN is shown in %d characters of output", len(s))
			}
		}
	}
}

func FuzzReadBootstrap(f *testing.F) {
	var pipe bytes.Buffer
	if err := WriteBootstrap(&pipe, testBootstrap()); err != nil {
		f.Fatal(err)
	}
	f.Add(pipe.Bytes())
	f.Add([]byte("\x00" + `{"mode":1}`))
	f.Add([]byte("\x041234" + `{"mode":1,"module_sha256":"` + strings.Repeat("a0", 32) + `"}`))
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
	hash := `"module_sha256":"` + strings.Repeat("a0", 32) + `"`
	if _, err := ReadBootstrap(strings.NewReader("\x04c2Vj" + `{"mode":1,` + hash + `}`)); err != nil {
		t.Fatalf("a good one: %v", err)
	}
	for name, in := range map[string]string{
		"empty":          "",
		"cut off in PIN": "\x05c2Vj",
		"cut off":        "\x04c2Vj" + `{"mode":1,` + hash[:20],
		"no mode":        "\x04c2Vj" + `{` + hash + `}`,
		"unknown mode":   "\x04c2Vj" + `{"mode":9,` + hash + `}`,
		"unknown field":  "\x04c2Vj" + `{"mode":1,` + hash + `,"exec":"x"}`,
		"two values":     "\x04c2Vj" + `{"mode":1,` + hash + `}{"mode":1}`,
		"trailing bytes": "\x04c2Vj" + `{"mode":1,` + hash + `} x`,
		"no hash":        "\x04c2Vj" + `{"mode":1}`,
		"short hash":     "\x04c2Vj" + `{"mode":1,"module_sha256":"00"}`,
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
