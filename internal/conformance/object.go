package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// An object is one JSON object, its values not decoded yet.
type object map[string]json.RawMessage

var (
	errNotObject = errors.New("want a JSON object")
	errSyntax    = errors.New("malformed JSON")
)

// parseObject reads raw as exactly one JSON object. A name that occurs twice is
// an error: a reader that takes the last one would silently test something
// other than what a person reads in the file.
func parseObject(raw []byte) (object, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil {
		return nil, syntaxError(err)
	} else if t != json.Delim('{') {
		return nil, errNotObject
	}
	o := object{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, syntaxError(err)
		}
		name, ok := t.(string)
		if !ok {
			return nil, errSyntax
		}
		if _, twice := o[name]; twice {
			return nil, fmt.Errorf("field %s occurs twice", quoteName(name))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, syntaxError(err)
		}
		o[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, syntaxError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more data after the JSON object")
	}
	return o, nil
}

// syntaxError keeps the offset of a JSON error and drops its text, which quotes
// the input.
func syntaxError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("%w at byte %d", errSyntax, syntax.Offset)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends too early", errSyntax)
	}
	return errSyntax
}

// names lists the fields in a fixed order, so that the first problem reported
// is the same in every run.
func (o object) names() []string { return slices.Sorted(maps.Keys(o)) }

// quoteName makes a name that came from a file safe for a terminal and for a
// line-based report. Long names are cut.
func quoteName(name string) string {
	const most = 80
	if len(name) > most {
		name = name[:most] + "..."
	}
	for _, r := range name {
		if r <= ' ' || r > '~' || r == '"' {
			return strconv.Quote(name)
		}
	}
	if name == "" {
		return `""`
	}
	return name
}
