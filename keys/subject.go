package keys

import (
	"fmt"
	"io"

	"github.com/tapseal/tapseal/cryptogram"
)

// A subject is what state is kept about: one PAN or token with its sequence
// number. It is stored and looked up as an HMAC-SHA-256 that only the token can
// compute, under the key set of UseSubjectHash: see
// docs/decisions/0014-subjects.md.

// SubjectBytes is the length of a subject's hash.
const SubjectBytes = 32

// Fixed public inputs. They are different from each other and from every
// subject's input in what stands before the first zero byte. Never change them:
// hashes are looked up, and check values and canaries compared, for the life of
// a key.
const (
	subjectTag = "tapseal subject v1\x00"

	// SubjectCheckInput gives Version.CheckValue of a subject key: the first
	// 3 bytes of its HMAC-SHA-256 over this.
	SubjectCheckInput = "tapseal subject check 1"
	// SubjectCanaryInput gives Version.Canary of a subject key: the first 8
	// bytes of its HMAC-SHA-256 over this.
	SubjectCanaryInput = "tapseal subject canary 1"
)

// SubjectKeyBytes is the length of a subject key: that of the hash, RFC 2104
// clause 3.
const SubjectKeyBytes = 32

// MaxSubjectInputBytes bounds what is hashed for a subject.
const MaxSubjectInputBytes = len(subjectTag) + 1 + cryptogram.MaxPANDigits + 1

// A SubjectInput is what is hashed for one subject: the text "tapseal subject
// v1", a zero byte, the number of digits of the PAN (1 byte), its digits in
// ASCII, and the sequence number (1 byte, BCD). It holds a PAN, and masks itself
// however it is printed. The zero value names no subject.
type SubjectInput struct {
	n     uint8
	bytes [MaxSubjectInputBytes]byte
}

// NewSubjectInput is the only place that builds an input. The zero PAN gives
// the zero value.
func NewSubjectInput(pan *cryptogram.PAN, psn cryptogram.PSN) (s SubjectInput) {
	if pan.IsZero() {
		return s
	}
	b := append(s.bytes[:0], subjectTag...)
	b = append(b, byte(pan.Len()))
	b = pan.AppendDigits(b)
	b = append(b, psn.BCD())
	s.n = uint8(len(b))
	return s
}

// IsZero reports whether there is no subject.
func (s *SubjectInput) IsZero() bool { return s.n == 0 }

// Bytes is the input in clear. It must not reach a log, error, trace or metric.
func (s *SubjectInput) Bytes() []byte { return s.bytes[:s.n] }

const maskedInput = "subject input"

// String masks the input.
func (s SubjectInput) String() string { return maskedInput }

// GoString masks the input.
func (s SubjectInput) GoString() string { return maskedInput }

// Format masks the input for every verb.
func (s SubjectInput) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, maskedInput) }

// MarshalText masks the input.
func (s SubjectInput) MarshalText() ([]byte, error) { return []byte(maskedInput), nil }

// A Subject is one subject's hash under one version of the subject key. The
// first 16 bytes name its record; the last 16 are a secret of the daemon and
// are never stored. It masks itself however it is printed. The zero value, with
// version 0, is no subject.
type Subject struct {
	Version uint32 // of the key
	Hash    [SubjectBytes]byte
}

func (s Subject) masked() string { return fmt.Sprintf("subject(key version %d)", s.Version) }

// String masks the hash.
func (s Subject) String() string { return s.masked() }

// GoString masks the hash.
func (s Subject) GoString() string { return s.masked() }

// Format masks the hash for every verb.
func (s Subject) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.masked()) }

// MarshalText masks the hash.
func (s Subject) MarshalText() ([]byte, error) { return []byte(s.masked()), nil }

// InForce gives the versions of a subject key set that take part: the highest
// active one hashes, and the next lower active one, if there is one, still finds
// what was stored before a rotation. Their order does not matter. A version with
// number 0 stands for none.
func InForce(versions []Version) (current, previous Version) {
	for _, v := range versions {
		switch {
		case v.State != Active:
		case v.Number > current.Number:
			current, previous = v, current
		case v.Number > previous.Number:
			previous = v
		}
	}
	return current, previous
}

// maxInForce is how many versions of the subject key take part.
const maxInForce = 2

// checkInForce refuses more active versions than take part: what is stored under
// the lowest one would not be found any more, and its taps be taken for new.
func checkInForce(versions []Version) error {
	active := 0
	for _, v := range versions {
		if v.State == Active {
			active++
		}
	}
	if active > maxInForce {
		return fmt.Errorf("%d are active, at most %d may be: end the rotation that is under way first", active, maxInForce)
	}
	return nil
}

// SubjectKeys gives the subject key versions in force, as InForce does. Without
// a set of UseSubjectHash both have number 0.
func (m *Manifest) SubjectKeys() (current, previous Version) {
	for i := range m.Sets {
		if m.Sets[i].Use == UseSubjectHash {
			return InForce(m.Sets[i].Versions)
		}
	}
	return Version{}, Version{}
}
