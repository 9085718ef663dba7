package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/cryptogram"
)

type command struct {
	files  map[string]string
	asJSON bool
	exec   Executor
	start  error
	ctx    context.Context
}

func (c command) run(t *testing.T) (status int, out string, err error) {
	t.Helper()
	dir := t.TempDir()
	var o bytes.Buffer
	cmd := Command{
		JSON: c.asJSON, Out: &o,
		Start: func(context.Context) (Executor, io.Closer, error) { return c.exec, io.NopCloser(nil), c.start },
	}
	for _, name := range []string{"a.json", "b.json", "missing.json"} {
		text, ok := c.files[name]
		if !ok {
			continue
		}
		path := filepath.Join(dir, name)
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Files = append(cmd.Files, path)
	}
	if c.ctx == nil {
		c.ctx = context.Background()
	}
	status, err = cmd.Run(c.ctx)
	return status, o.String(), err
}

func fileOf(t *testing.T, vectors ...change) string {
	t.Helper()
	list := make([]any, len(vectors))
	for i, v := range vectors {
		list[i] = v
	}
	return string(mustJSON(t, map[string]any{"vectors": list}))
}

func TestReport(t *testing.T) {
	wrong := with(goodAC(), change{"id": "wrong", "uncertain": "one source", "expected": change{"ac": "7A788EA6B8A3E732"}})
	tests := map[string]struct {
		command
		status int
		out    string
	}{
		"all passed": {
			command{files: map[string]string{"a.json": fileOf(t, goodAC(), goodPad())}},
			StatusPassed,
			"passed in the token 1, in software only 1, uncertain sources 0 passed 0 failed\n2 passed, 0 failed, 0 skipped\n",
		},
		"one failed, some skipped": {
			command{files: map[string]string{
				"a.json": fileOf(t, wrong, goodVerify(), change{"id": "s", "op": "cvv"}),
				"b.json": fileOf(t, change{"id": "s", "op": "cvv"}, with(goodAC(), change{"skd": "visa_sm"})),
			}},
			StatusFailed,
			"FAIL a.json wrong ac: cryptogram: expected.ac is not what token and software compute (the source is marked uncertain)\n" +
				"nothing was run from b.json: 2 of 2 skipped\n" +
				"skipped cvv: 2\nskipped skd visa_sm: 1\n" +
				"passed in the token 1, in software only 0, uncertain sources 0 passed 1 failed\n1 passed, 1 failed, 3 skipped\n",
		},
		"uncertain and passed": {
			command{files: map[string]string{"a.json": fileOf(t, with(goodAC(), change{"uncertain": true}))}},
			StatusPassed,
			"passed in the token 1, in software only 0, uncertain sources 1 passed 0 failed\n1 passed, 0 failed, 0 skipped\n",
		},
		"no vectors": {
			command{files: map[string]string{"a.json": fileOf(t)}},
			StatusPassed,
			"no vectors in a.json\n" +
				"passed in the token 0, in software only 0, uncertain sources 0 passed 0 failed\n0 passed, 0 failed, 0 skipped\n",
		},
		"malformed and missing": {
			command{files: map[string]string{"a.json": "{", "b.json": fileOf(t, goodPad()), "missing.json": ""}},
			StatusFailed,
			"FAIL a.json - -: file: malformed JSON: it ends too early\n" +
				"FAIL missing.json - -: file: opening the vector file: no such file or directory\n" +
				"passed in the token 0, in software only 1, uncertain sources 0 passed 0 failed\n1 passed, 2 failed, 0 skipped\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.exec = inSoftware{}
			status, out, err := tt.run(t)
			if status != tt.status || err != nil {
				t.Errorf("status %d, %v, want %d", status, err, tt.status)
			}
			if diff := cmp.Diff(tt.out, out); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJSONReport(t *testing.T) {
	status, out, _ := command{
		files:  map[string]string{"a.json": fileOf(t, goodAC(), change{"id": "s", "op": "cvv"})},
		asJSON: true, exec: inSoftware{},
	}.run(t)
	var got map[string]any
	if err := json.Unmarshal([]byte(out), &got); err != nil || status != StatusPassed {
		t.Fatalf("status %d, %v", status, err)
	}
	delete(got, "results")
	want := map[string]any{
		"passed": 1., "failed": 0., "skipped": 1., "in_token": 1., "software_only": 0.,
		"uncertain_passed": 0., "uncertain_failed": 0., "skipped_by": map[string]any{"cvv": 1.},
		"files": []any{map[string]any{"file": "a.json", "vectors": 2., "run": 1., "skipped": 1.}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// gone is a token that goes away at the first plan.
type gone struct{}

func (gone) Execute([16]byte, *cryptogram.Plan) (cryptogram.Outcome, error) {
	return cryptogram.Outcome{}, ErrTokenGone
}

func TestUndecided(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	files := map[string]string{"a.json": fileOf(t, goodPad(), goodAC(), goodAC())}
	tests := map[string]struct {
		command
		out, problem string // parts; with a problem there is no report
	}{
		"no files":    {command{exec: inSoftware{}}, "", "no vector files"},
		"no token":    {command{files: files, start: errors.New("no such module")}, "", "no such module"},
		"interrupted": {command{files: files, exec: inSoftware{}, ctx: ended}, "not every vector was run: interrupted\n", ""},
		"token gone":  {command{files: files, exec: gone{}}, "not every vector was run: running t: the token is gone\npassed in the token 0, in software only 1", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, out, err := tt.run(t)
			if status != StatusUndecided || !strings.Contains(out, tt.out) {
				t.Errorf("status %d, output %q", status, out)
			}
			if (err != nil) != (tt.problem != "") || (err != nil && !strings.Contains(err.Error(), tt.problem)) {
				t.Errorf("error %v, want %q", err, tt.problem)
			}
		})
	}
}
