package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// MaxFileBytes bounds a vector file: the largest published one has 40 kB.
const MaxFileBytes = 64 << 20

// A File is one vector file, read as far as its list of vectors.
type File struct {
	Name    string // base name, for reports
	vectors []json.RawMessage
}

// Len is the number of vectors.
func (f *File) Len() int { return len(f.vectors) }

// ReadFile reads the vector file at path. The error names what is wrong with
// the file as a whole; a malformed vector is found when it is run.
func ReadFile(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening the vector file: %w", errors.Unwrap(err))
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading the vector file: %w", err)
	}
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", MaxFileBytes)
	}
	return ParseFile(filepath.Base(path), data)
}

// ParseFile reads a vector file: {"topic", "source", "vectors"} and nothing
// else at the top.
func ParseFile(name string, data []byte) (*File, error) {
	top, err := parseObject(data)
	if err != nil {
		return nil, err
	}
	for _, field := range top.names() {
		switch field {
		case "topic", "source", "vectors":
		default:
			return nil, fmt.Errorf("unknown field %s at the top of the file", quoteName(field))
		}
	}
	raw, ok := top["vectors"]
	if !ok {
		return nil, errors.New("vectors: missing")
	}
	f := &File{Name: name}
	if len(raw) == 0 || raw[0] != '[' {
		return nil, errors.New("vectors: want a list")
	}
	if err := json.Unmarshal(raw, &f.vectors); err != nil {
		return nil, fmt.Errorf("vectors: %w", syntaxError(err))
	}
	return f, nil
}
