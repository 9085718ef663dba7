package secret

import (
	"bytes"
	"encoding"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/quick"

	"go.yaml.in/yaml/v3"
)

// The planted value, and how it looks in the ways that things are printed.
const planted = "Pl4nted"

func shapes() []string {
	b := []byte(planted)
	decimal := strings.Trim(fmt.Sprint(b), "[]")
	base64, _ := json.Marshal(b)
	return []string{
		planted, decimal, strings.ReplaceAll(decimal, " ", ", "), strings.Trim(string(base64), `"`),
		fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), fmt.Sprintf("% x", b), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}"),
		strings.Trim(fmt.Sprintf("%o", b), "[]"), strings.Trim(fmt.Sprintf("%b", b), "[]"), strings.Trim(fmt.Sprintf("%c", b), "[]"), strings.Trim(fmt.Sprintf("%U", b), "[]"),
	}
}

func leaks(out string) bool {
	for _, s := range shapes() {
		if strings.Contains(out, s) {
			return true
		}
	}
	return false
}

type holder struct {
	Exported Secret
	hidden   Secret
	Pointer  *Secret
	List     []Secret
	Map      map[string]Secret
	Any      any
	hiddens  []Secret
	hiddenM  map[string]Secret
	inner    struct{ deep Secret }
}

type embedder struct{ Secret }

func everyForm() map[string]any {
	s := New([]byte(planted))
	h := holder{Exported: s, hidden: s, Pointer: &s, List: []Secret{s}, Map: map[string]Secret{"k": s}, Any: s, hiddens: []Secret{s}, hiddenM: map[string]Secret{"k": s}}
	h.inner.deep = s
	return map[string]any{
		"value": s, "pointer": &s, "holder": h, "pointer to holder": &h, "embedder": embedder{s}, "pointer to embedder": &embedder{s},
		"list": []Secret{s}, "array": [1]Secret{s}, "map": map[string]any{"k": s}, "list of any": []any{s, &s, h},
	}
}

var verbs = []string{"v", "+v", "#v", "s", "q", "x", "X", "# x", "#x", "d", "b", "o", "O", "c", "U", "#U", "e", "f", "g", "t", "T", "p", "w", "10s", "-10.3s", "!"}

func TestNothingPrints(t *testing.T) {
	for name, v := range everyForm() {
		for _, verb := range verbs {
			if out := fmt.Sprintf("%"+verb, v); leaks(out) {
				t.Errorf("%%%s of %s: %s", verb, name, out)
			}
		}
		for how, out := range map[string]string{"Sprint": fmt.Sprint(v), "Sprintln": fmt.Sprintln(v), "Append": string(fmt.Append(nil, v))} {
			if leaks(out) {
				t.Errorf("%s of %s: %s", how, name, out)
			}
		}
	}
}

// The control: what the search does find, in the naive ways to hold a secret.
func TestTheSearchFinds(t *testing.T) {
	type naive struct{ hidden []byte }
	for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "d", "o", "b", "U", "c"} {
		if out := fmt.Sprintf("%"+verb, naive{[]byte(planted)}); !leaks(out) {
			t.Errorf("%%%s: not found in %s", verb, out)
		}
	}
	if out, _ := json.Marshal([]byte(planted)); !leaks(string(out)) {
		t.Errorf("json: not found in %s", out)
	}
}

func TestNothingMarshals(t *testing.T) {
	marshals := map[string]func(any) ([]byte, error){
		"json": json.Marshal, "yaml": yaml.Marshal, "xml": xml.Marshal,
		"gob": func(v any) ([]byte, error) {
			var b bytes.Buffer
			gob.Register(Secret{})
			err := gob.NewEncoder(&b).Encode(v)
			return b.Bytes(), err
		},
		"slog text": func(v any) ([]byte, error) { return logged(v, false), nil },
		"slog json": func(v any) ([]byte, error) { return logged(v, true), nil },
		"log": func(v any) ([]byte, error) {
			var b bytes.Buffer
			log.New(&b, "", 0).Print(v)
			return b.Bytes(), nil
		},
	}
	for how, marshal := range marshals {
		for name, v := range everyForm() {
			out, err := marshal(v)
			if leaks(string(out)) || err != nil && leaks(err.Error()) {
				t.Errorf("%s of %s: %s %v", how, name, out, err)
			}
		}
	}
	for how, marshal := range marshals { // masked, not left out
		if out, err := marshal(New([]byte(planted))); err != nil || !bytes.Contains(out, []byte(Mask)) {
			t.Errorf("%s: %q %v", how, out, err)
		}
	}
}

func logged(v any, asJSON bool) []byte {
	var b bytes.Buffer
	o := &slog.HandlerOptions{Level: slog.LevelDebug, AddSource: true}
	l := slog.New(slog.NewTextHandler(&b, o))
	if asJSON {
		l = slog.New(slog.NewJSONHandler(&b, o))
	}
	l.With("with", v).WithGroup("group").Info("message", "attribute", v, slog.Any("any", v), slog.Group("inner", "deep", v))
	return b.Bytes()
}

func TestMarshalMethodsMask(t *testing.T) {
	s := New([]byte(planted))
	for name, f := range map[string]func() ([]byte, error){
		"text": s.MarshalText, "binary": s.MarshalBinary, "gob": s.GobEncode, "json": s.MarshalJSON,
		"append text":   func() ([]byte, error) { return s.AppendText([]byte("x")) },
		"append binary": func() ([]byte, error) { return s.AppendBinary([]byte("x")) },
		"yaml":          func() ([]byte, error) { v, err := s.MarshalYAML(); return []byte(fmt.Sprint(v)), err },
		"log value":     func() ([]byte, error) { return []byte(s.LogValue().String()), nil },
		"string":        func() ([]byte, error) { return []byte(s.String() + s.GoString()), nil },
	} {
		if out, err := f(); err != nil || leaks(string(out)) || !strings.Contains(string(out), Mask) {
			t.Errorf("%s: %q %v", name, out, err)
		}
	}
}

// A mask that is read back as a PIN would cost a try at the token.
func TestNothingUnmarshals(t *testing.T) {
	var s Secret
	for name, f := range map[string]func() error{
		"json":   func() error { return json.Unmarshal([]byte(`"x"`), &s) },
		"yaml":   func() error { return yaml.Unmarshal([]byte(`x`), &s) },
		"xml":    func() error { return xml.Unmarshal([]byte(`<a>x</a>`), &s) },
		"text":   func() error { return encoding.TextUnmarshaler(&s).UnmarshalText([]byte("x")) },
		"binary": func() error { return encoding.BinaryUnmarshaler(&s).UnmarshalBinary([]byte("x")) },
		"sql":    func() error { return s.Scan("x") },
		"gob": func() error {
			var b bytes.Buffer
			if err := gob.NewEncoder(&b).Encode(New([]byte("x"))); err != nil {
				return err
			}
			return gob.NewDecoder(&b).Decode(&s)
		},
		"field": func() error { return json.Unmarshal([]byte(`{"Exported":"x"}`), &holder{}) },
	} {
		if err := f(); !errors.Is(err, ErrUnmarshal) && (err == nil || !strings.Contains(err.Error(), ErrUnmarshal.Error())) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !s.IsZero() {
		t.Error("something was read")
	}
}

func TestErrorsMask(t *testing.T) {
	s := New([]byte(planted))
	for _, err := range []error{
		fmt.Errorf("with %v %+v %#v %s %q %x", s, s, s, s, s, s), fmt.Errorf("wrapped: %w", errors.New(fmt.Sprint(s))),
		errors.Join(errors.New(s.String()), fmt.Errorf("%v", holder{hidden: s})),
	} {
		if leaks(err.Error()) {
			t.Error(err)
		}
	}
}

// A process that dies of a panic with a secret in it prints none.
func TestPanicsMask(t *testing.T) {
	if kind := os.Getenv("SECRET_TEST_PANIC"); kind != "" {
		panicWith(kind)
	}
	for _, kind := range []string{"value", "pointer", "holder", "error", "argument", "naive"} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPanicsMask$")
		cmd.Env = append(os.Environ(), "SECRET_TEST_PANIC="+kind, "GOTRACEBACK=all")
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), "panic") {
			t.Fatalf("%s: no panic: %s", kind, out)
		}
		if got := leaks(string(out)); got != (kind == "naive") { // naive is the control
			t.Errorf("%s: leaks %v: %s", kind, got, out)
		}
	}
}

func panicWith(kind string) {
	s := New([]byte(planted))
	switch kind {
	case "value":
		panic(s)
	case "pointer":
		panic(&s)
	case "holder":
		panic(fmt.Sprintf("%+v", holder{hidden: s}))
	case "error":
		panic(fmt.Errorf("with %v", s))
	case "argument":
		panicInside(s)
	case "naive":
		panic(planted)
	}
}

//go:noinline
func panicInside(s Secret) { panic("inside " + s.String()) }

func TestUseEqualCloneWipe(t *testing.T) {
	var zero Secret
	s := New([]byte(planted))
	copied, clone := s, s.Clone()
	if zero.Equal(zero) || zero.Equal(s) || s.Equal(zero) || !s.Equal(s) || !s.Equal(copied) || !s.Equal(clone) || s.Equal(New([]byte("Pl4ntee"))) || s.Equal(New([]byte("Pl4nte"))) {
		t.Error("Equal is wrong")
	}
	if !zero.IsZero() || !New(nil).IsZero() || s.IsZero() {
		t.Error("IsZero is wrong")
	}
	var own []byte
	s.Use(func(b []byte) { own = b })
	if string(own) != planted {
		t.Error("Use gives something else")
	}
	s.Wipe()
	s.Wipe()
	zero.Wipe()
	if !bytes.Equal(own, make([]byte, len(planted))) {
		t.Error("the bytes are still there")
	}
	if !s.IsZero() || !copied.IsZero() || clone.IsZero() || s.Equal(clone) || s.Equal(s) {
		t.Error("wiping reached too little or too much")
	}
}

func TestNewTakesOwnership(t *testing.T) {
	b := []byte(planted)
	New(b).Wipe()
	if !bytes.Equal(b, make([]byte, len(planted))) {
		t.Error("there is a copy")
	}
}

func TestEqualIsEquality(t *testing.T) {
	same := func(a, b []byte) bool {
		want := len(a) > 0 && bytes.Equal(a, b)
		return New(bytes.Clone(a)).Equal(New(bytes.Clone(b))) == want
	}
	if err := quick.Check(same, nil); err != nil {
		t.Error(err)
	}
}

func TestConcurrentUseAndWipe(t *testing.T) {
	s := New([]byte(planted))
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 1000 {
				s.Use(func(b []byte) {
					if len(b) != 0 && string(b) != planted {
						t.Error("half wiped")
					}
				})
				_ = s.Equal(s)
				_ = s.String()
			}
		}()
	}
	s.Wipe()
	wg.Wait()
}
