// Package strictyaml reads configuration: one YAML document, in which an
// unknown key, a duplicate key, a value of the wrong type or a second document
// is an error that names the key and the line.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxBytes bounds a configuration file.
const MaxBytes = 16 << 20

// unknownField is the library's wording, which names a Go type that means
// nothing to the person who wrote the file.
var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// wrongType is the library's wording for a value that does not fit; the value
// itself is left out, because configuration may point at sensitive things.
var wrongType = regexp.MustCompile("cannot unmarshal (\\S+) (`[^`]*` )?into \\S+")

// Unmarshal decodes the one document in data into the struct that into points
// at. The error lists every fault, each with its line.
func Unmarshal(data []byte, into any) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("file is larger than %d bytes", MaxBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("file has no YAML document")
		}
		return readable(err)
	}
	var more yaml.Node
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return errors.New("file has more than one YAML document")
	}
	return nil
}

func readable(err error) error {
	var typeErr *yaml.TypeError
	if !errors.As(err, &typeErr) {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	faults := make([]string, len(typeErr.Errors))
	for i, e := range typeErr.Errors {
		e = unknownField.ReplaceAllString(e, `unknown key "$1"`)
		faults[i] = wrongType.ReplaceAllString(e, "a value of type $1 does not fit here")
	}
	return errors.New(strings.Join(faults, "; "))
}
