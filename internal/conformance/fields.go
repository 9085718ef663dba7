package conformance

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// A problem says what is wrong with one field of a vector, or that the product
// refuses the vector. It never holds a value.
type problem struct {
	field string
	text  string
}

func (p *problem) Error() string { return p.field + ": " + p.text }

func badField(field, format string, args ...any) error {
	return &problem{field, fmt.Sprintf(format, args...)}
}

// fields reads typed values out of an object. The prefix, such as "expected.",
// goes before names in errors.
type fields struct {
	object
	prefix string
}

func (f fields) has(name string) bool { _, ok := f.object[name]; return ok }

// text reads a JSON string. The field must be present.
func (f fields) text(name string) (string, error) {
	raw, ok := f.object[name]
	if !ok {
		return "", badField(f.prefix+name, "missing")
	}
	if len(raw) == 0 || raw[0] != '"' {
		return "", badField(f.prefix+name, "want a string")
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", badField(f.prefix+name, "malformed string")
	}
	return s, nil
}

// bytes reads hexadecimal digits. The schema writes them in upper case; lower
// case means the same and is taken too.
func (f fields) bytes(name string) ([]byte, error) {
	s, err := f.text(name)
	if err != nil {
		return nil, err
	}
	for i := range len(s) {
		if c := s[i] | 0x20; (s[i] < '0' || s[i] > '9') && (c < 'a' || c > 'f') {
			return nil, badField(f.prefix+name, "character %d is not a hexadecimal digit", i+1)
		}
	}
	if len(s)%2 != 0 {
		return nil, badField(f.prefix+name, "odd number of hexadecimal digits (%d)", len(s))
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return nil, badField(f.prefix+name, "malformed hexadecimal")
	}
	return b, nil
}

// fixed reads hexadecimal digits of exactly len(dst) bytes.
func (f fields) fixed(name string, dst []byte) error {
	b, err := f.bytes(name)
	if err != nil {
		return err
	}
	if len(b) != len(dst) {
		return badField(f.prefix+name, "want %s, got %d", plural(len(dst), "byte"), len(b))
	}
	copy(dst, b)
	return nil
}

// digits reads decimal digits; at least one.
func (f fields) digits(name string) (string, error) {
	s, err := f.text(name)
	if err != nil {
		return "", err
	}
	if s == "" {
		return "", badField(f.prefix+name, "empty")
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return "", badField(f.prefix+name, "character %d is not a decimal digit", i+1)
		}
	}
	return s, nil
}

// number reads a non-negative whole number, written as a JSON number or as a
// string of decimal digits.
func (f fields) number(name string) (uint64, error) {
	raw, ok := f.object[name]
	if !ok {
		return 0, badField(f.prefix+name, "missing")
	}
	s := string(raw)
	if len(s) > 0 && s[0] == '"' {
		var err error
		if s, err = f.digits(name); err != nil {
			return 0, err
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, badField(f.prefix+name, "number too large")
	}
	if err != nil {
		return 0, badField(f.prefix+name, "want a whole number")
	}
	return n, nil
}

// truth reads a JSON boolean.
func (f fields) truth(name string) (bool, error) {
	raw, ok := f.object[name]
	if !ok {
		return false, badField(f.prefix+name, "missing")
	}
	switch string(raw) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, badField(f.prefix+name, "want true or false")
}

// oneOf reads a string that must be one of the choices.
func (f fields) oneOf(name string, choices ...string) (string, error) {
	s, err := f.text(name)
	if err != nil {
		return "", err
	}
	for _, c := range choices {
		if s == c {
			return s, nil
		}
	}
	return "", badField(f.prefix+name, "want one of %q", choices)
}

func plural(n int, unit string) string {
	if n == 1 {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return fmt.Sprintf("%d %ss", n, unit)
}
