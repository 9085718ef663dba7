package worker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// maskedPIN is what every way of printing a PIN gives: not even its length.
const maskedPIN = "PIN(masked)"

// ErrPINMarshal is the answer to every attempt to marshal a PIN by accident.
var ErrPINMarshal = errors.New("a PIN cannot be marshalled")

// A PIN is the user PIN of a token. It cannot print, format, log or marshal
// itself; only Reveal shows it. The zero value is no PIN.
type PIN struct{ bytes []byte }

// NewPIN keeps a copy of b.
func NewPIN(b []byte) PIN { return PIN{bytes: append([]byte(nil), b...)} }

// Reveal gives the PIN itself. The caller must not keep, copy or print it.
func (p PIN) Reveal() []byte { return p.bytes }

// IsZero reports whether there is no PIN.
func (p PIN) IsZero() bool { return len(p.bytes) == 0 }

// Wipe overwrites the PIN in memory.
func (p *PIN) Wipe() {
	clear(p.bytes)
	p.bytes = nil
}

// String masks the PIN.
func (p PIN) String() string { return maskedPIN }

// GoString masks the PIN.
func (p PIN) GoString() string { return maskedPIN }

// Format masks the PIN for every verb.
func (p PIN) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, maskedPIN) }

// LogValue masks the PIN.
func (p PIN) LogValue() slog.Value { return slog.StringValue(maskedPIN) }

// MarshalText refuses.
func (p PIN) MarshalText() ([]byte, error) { return nil, ErrPINMarshal }

// MarshalJSON refuses.
func (p PIN) MarshalJSON() ([]byte, error) { return nil, ErrPINMarshal }

// MarshalYAML refuses.
func (p PIN) MarshalYAML() (any, error) { return nil, ErrPINMarshal }
