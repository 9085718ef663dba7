// Package secret holds values that must not be seen: PINs, passwords, tokens.
//
// A Secret cannot print, format, marshal or log itself, at any depth of any
// structure, with any verb. What it holds is reached in one way:
//
//	pin := secret.New(bytes) // bytes now belong to pin
//	defer pin.Wipe()
//	pin.Use(func(b []byte) { err = token.Login(b) })
package secret

import (
	"crypto/subtle"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
)

// Mask is what every way of printing or marshalling a Secret gives: neither
// its length nor whether there is one.
const Mask = "(secret)"

// ErrUnmarshal is the answer to every attempt to fill a Secret by
// unmarshalling: what was marshalled is the mask, and a mask that is taken for
// a PIN costs one of the few tries that a token gives.
var ErrUnmarshal = errors.New("a secret cannot be unmarshalled")

// A Secret holds bytes. The zero value holds none. Copies of a Secret are the
// same Secret: wiping one wipes all; Clone makes another one.
//
// What it holds is in a closure, because fmt looks into unexported fields
// without asking their methods, and through pointers as well when the verb is
// wrong; into a function nothing looks. Nor can Secrets be compared with ==,
// which would not take constant time; use Equal.
type Secret struct{ open func() *box }

type box struct {
	mu    sync.RWMutex // wiping waits for users
	bytes []byte
}

// New takes ownership of b: the caller must not use, keep or wipe it.
func New(b []byte) Secret {
	if len(b) == 0 {
		return Secret{}
	}
	held := &box{bytes: b}
	return Secret{open: func() *box { return held }}
}

// Use calls f with the bytes, nil if there are none. f must not keep, copy or
// change them, nor call Wipe.
func (s Secret) Use(f func([]byte)) {
	if s.open == nil {
		f(nil)
		return
	}
	held := s.open()
	held.mu.RLock()
	defer held.mu.RUnlock()
	f(held.bytes)
}

// Clone makes a Secret with a life of its own.
func (s Secret) Clone() (c Secret) {
	s.Use(func(b []byte) { c = New(append([]byte(nil), b...)) })
	return c
}

// IsZero reports whether there is nothing: never set, or wiped.
func (s Secret) IsZero() (zero bool) {
	s.Use(func(b []byte) { zero = len(b) == 0 })
	return zero
}

// Wipe overwrites the bytes, in every copy of the Secret. Wiping twice is fine.
func (s Secret) Wipe() {
	if s.open == nil {
		return
	}
	held := s.open()
	held.mu.Lock()
	defer held.mu.Unlock()
	clear(held.bytes)
	held.bytes = nil
}

// Equal compares in a time that depends on the lengths only. Two that hold
// nothing are not equal: nothing proves nothing.
func (s Secret) Equal(other Secret) (same bool) {
	mine := s.Clone() // both locks at once could wait for each other behind a writer
	defer mine.Wipe()
	mine.Use(func(a []byte) {
		other.Use(func(b []byte) { same = len(a) > 0 && subtle.ConstantTimeCompare(a, b) == 1 })
	})
	return same
}

var (
	_ fmt.Formatter  = Secret{}
	_ slog.LogValuer = Secret{}
	_ gob.GobEncoder = Secret{}
	_ gob.GobDecoder = (*Secret)(nil)
)

// String masks.
func (s Secret) String() string { return Mask }

// GoString masks.
func (s Secret) GoString() string { return Mask }

// Format masks for every verb and flag.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mask) }

// LogValue masks.
func (s Secret) LogValue() slog.Value { return slog.StringValue(Mask) }

// MarshalText masks.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// AppendText masks.
func (s Secret) AppendText(b []byte) ([]byte, error) { return append(b, Mask...), nil }

// MarshalJSON masks.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + Mask + `"`), nil }

// MarshalYAML masks.
func (s Secret) MarshalYAML() (any, error) { return Mask, nil }

// MarshalBinary masks.
func (s Secret) MarshalBinary() ([]byte, error) { return []byte(Mask), nil }

// AppendBinary masks.
func (s Secret) AppendBinary(b []byte) ([]byte, error) { return append(b, Mask...), nil }

// GobEncode masks.
func (s Secret) GobEncode() ([]byte, error) { return []byte(Mask), nil }

// UnmarshalText refuses.
func (s *Secret) UnmarshalText([]byte) error { return ErrUnmarshal }

// UnmarshalJSON refuses.
func (s *Secret) UnmarshalJSON([]byte) error { return ErrUnmarshal }

// UnmarshalYAML refuses.
func (s *Secret) UnmarshalYAML(func(any) error) error { return ErrUnmarshal }

// UnmarshalBinary refuses.
func (s *Secret) UnmarshalBinary([]byte) error { return ErrUnmarshal }

// GobDecode refuses.
func (s *Secret) GobDecode([]byte) error { return ErrUnmarshal }

// Scan refuses, for database/sql.
func (s *Secret) Scan(any) error { return ErrUnmarshal }
