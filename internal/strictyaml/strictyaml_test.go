package strictyaml

import (
	"strings"
	"testing"
)

type file struct {
	Name  string `yaml:"name"`
	Count int    `yaml:"count"`
	Inner struct {
		Flag bool `yaml:"flag"`
	} `yaml:"inner"`
}

func TestUnmarshal(t *testing.T) {
	var f file
	if err := Unmarshal([]byte("name: a\ncount: 3\ninner: {flag: true}\n"), &f); err != nil {
		t.Fatal(err)
	}
	if f.Name != "a" || f.Count != 3 || !f.Inner.Flag {
		t.Fatalf("got %+v", f)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"unknown key", "nmae: a\n", `line 1: unknown key "nmae"`},
		{"unknown nested key", "inner:\n  flog: true\n", `line 2: unknown key "flog"`},
		{"duplicate key", "name: a\nname: b\n", `mapping key "name" already defined`},
		{"wrong type", "count: many\n", "line 1: a value of type !!str does not fit here"},
		{"two documents", "name: a\n---\nname: b\n", "more than one YAML document"},
		{"empty", "", "no YAML document"},
		{"only a comment", "# nothing\n", "no YAML document"},
		{"syntax", "name: [a\n", "line 1"},
		{"too large", strings.Repeat("#", MaxBytes+1), "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var f file
			err := Unmarshal([]byte(tc.in), &f)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, want %q in it", err, tc.want)
			}
			if strings.Contains(err.Error(), "many") || strings.Contains(err.Error(), "strictyaml.") {
				t.Fatalf("%v shows a value or a Go type", err)
			}
		})
	}
}
