package cryptogram

import (
	"errors"
	"fmt"
	"io"
)

// PAN lengths in digits, ISO/IEC 7812-1.
const (
	MinPANDigits = 12
	MaxPANDigits = 19
)

// Errors of ParsePAN and ParsePSN. They never carry the input.
var (
	ErrPANLength = fmt.Errorf("PAN must have %d to %d digits", MinPANDigits, MaxPANDigits)
	ErrPANDigit  = errors.New("PAN has a character that is not a digit")
	ErrPSN       = errors.New("PAN sequence number must be two digits")
)

// A PAN is a primary account number or a payment token in its place: 12 to 19
// decimal digits. It masks itself whichever way it is printed, marshalled or
// logged; only Digits reveals it. The zero value is no PAN. PANs compare with ==.
type PAN struct {
	n      uint8
	digits [MaxPANDigits]byte // ASCII, zero filled
}

// ParsePAN reads 12 to 19 ASCII digits. The check digit is not verified:
// test PANs and tokens need not have one.
func ParsePAN(s string) (PAN, error) { return parsePAN(s) }

// PANFromASCII is ParsePAN for a byte slice, without a copy on the heap.
func PANFromASCII(b []byte) (PAN, error) { return parsePAN(b) }

func parsePAN[T string | []byte](s T) (PAN, error) {
	var p PAN
	if len(s) < MinPANDigits || len(s) > MaxPANDigits {
		return PAN{}, ErrPANLength
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return PAN{}, ErrPANDigit
		}
		p.digits[i] = s[i]
	}
	p.n = uint8(len(s))
	return p, nil
}

// Len is the number of digits, 0 for the zero value.
func (p PAN) Len() int { return int(p.n) }

// IsZero reports whether there is no PAN.
func (p PAN) IsZero() bool { return p.n == 0 }

// AppendDigits appends the clear digits in ASCII. Callers must not let them
// reach a log, error, trace or metric.
func (p *PAN) AppendDigits(b []byte) []byte { return append(b, p.digits[:p.n]...) }

// Digit returns the i-th digit, 0…9.
func (p *PAN) Digit(i int) byte { return p.digits[i] - '0' }

// Prefix is the PAN as a number of MaxPANDigits digits, zeros after its own, so
// that PANs of any length lie in ranges of prefixes. It is cardholder data.
func (p *PAN) Prefix() (v uint64) {
	for i := range MaxPANDigits {
		v *= 10
		if i < p.Len() {
			v += uint64(p.Digit(i))
		}
	}
	return v
}

func (p PAN) masked() string { return fmt.Sprintf("PAN(%d digits)", p.n) }

// String masks the PAN.
func (p PAN) String() string { return p.masked() }

// GoString masks the PAN.
func (p PAN) GoString() string { return p.masked() }

// Format masks the PAN for every verb.
func (p PAN) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.masked()) }

// MarshalText masks the PAN, for JSON, YAML and log/slog alike.
func (p PAN) MarshalText() ([]byte, error) { return []byte(p.masked()), nil }

// A PSN is a PAN sequence number (tag 5F34), two decimal digits, 00 if the
// card has none. It masks itself like a PAN. PSNs compare with ==.
type PSN struct{ bcd byte }

// ParsePSN reads exactly two ASCII digits.
func ParsePSN(s string) (PSN, error) {
	if len(s) != 2 || s[0] < '0' || s[0] > '9' || s[1] < '0' || s[1] > '9' {
		return PSN{}, ErrPSN
	}
	return PSN{(s[0]-'0')<<4 | (s[1] - '0')}, nil
}

// PSNFromBCD reads the one-byte BCD form of tag 5F34.
func PSNFromBCD(b byte) (PSN, error) {
	if b>>4 > 9 || b&15 > 9 {
		return PSN{}, ErrPSN
	}
	return PSN{b}, nil
}

// BCD is the one-byte form of tag 5F34.
func (s PSN) BCD() byte { return s.bcd }

// String masks the sequence number.
func (s PSN) String() string { return "PSN(2 digits)" }

// GoString masks the sequence number.
func (s PSN) GoString() string { return s.String() }

// Format masks the sequence number for every verb.
func (s PSN) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText masks the sequence number.
func (s PSN) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
