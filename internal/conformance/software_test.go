package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// inSoftware runs plans on the software executor: for what is about reading
// and reporting. What is about the token runs on one (token_test.go).
type inSoftware struct{}

func (inSoftware) Execute(root [16]byte, p *cryptogram.Plan) (o cryptogram.Outcome, err error) {
	return o, software.Execute(root, p, &o)
}

const vectorDir = "../../testdata/vectors"

func vectorFiles(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	if err != nil || len(files) != 15 {
		t.Fatalf("found %d vector files, want 15 (%v)", len(files), err)
	}
	return files
}

func runFile(t testing.TB, exec Executor, f *File) []Result {
	t.Helper()
	var results []Result
	err := NewRunner(exec).RunFile(context.Background(), f, func(r Result) { results = append(results, r) })
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// vectorObjects reads a file loosely, for tests that change vectors.
func vectorObjects(t testing.TB, path string) []map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vectors []map[string]any `json:"vectors"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Vectors
}

func oneVector(t testing.TB, v map[string]any) *File {
	t.Helper()
	data, err := json.Marshal(map[string]any{"topic": "t", "source": []string{}, "vectors": []any{v}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := ParseFile("one.json", data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func runOne(t testing.TB, exec Executor, v map[string]any) Result {
	t.Helper()
	return runFile(t, exec, oneVector(t, v))[0]
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// upperHex is the encoding of the vector files.
func upperHex(b []byte) string { return fmt.Sprintf("%X", b) }
