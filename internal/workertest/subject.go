package workertest

import (
	"crypto/hmac"
	"crypto/sha256"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// A SubjectKey is a subject key in clear: a test value.
type SubjectKey [keys.SubjectKeyBytes]byte

// Subject keys of tests: version 1, and version 2 which follows it.
var (
	OldSubjectKey = SubjectKey{0: 0x51, 31: 1}
	NewSubjectKey = SubjectKey{0: 0x52, 31: 2}
)

// ID is the id of a test key.
func (k SubjectKey) ID() keys.ID { return keys.ID(k[:keys.IDBytes]) }

// HMAC is HMAC-SHA-256 under the key.
func (k SubjectKey) HMAC(data []byte) (sum [keys.SubjectBytes]byte) {
	h := hmac.New(sha256.New, k[:])
	_, _ = h.Write(data) // never fails
	h.Sum(sum[:0])
	return sum
}

// Version describes the key for a manifest.
func (k SubjectKey) Version(number uint32, state keys.State) keys.Version {
	check, canary := k.HMAC([]byte(keys.SubjectCheckInput)), k.HMAC([]byte(keys.SubjectCanaryInput))
	return keys.Version{
		Number: number, ID: k.ID(), State: state, CheckValue: [3]byte(check[:3]), Canary: [8]byte(canary[:8]),
	}
}

// Subject is what a worker must answer for an input.
func (k SubjectKey) Subject(version uint32, in *keys.SubjectInput) keys.Subject {
	return keys.Subject{Version: version, Hash: k.HMAC(in.Bytes())}
}

// WithSubjects adds the set of subject keys to a manifest: the old key, and
// the new one too while they rotate.
func WithSubjects(m *keys.Manifest, rotating bool) *keys.Manifest {
	set := keys.Set{Name: "subjects", Use: keys.UseSubjectHash, Versions: []keys.Version{OldSubjectKey.Version(1, keys.Active)}}
	if rotating {
		set.Versions = append(set.Versions, NewSubjectKey.Version(2, keys.Active))
	}
	m.Sets = append(m.Sets, set)
	return m
}

// Hashing lets the token hold the keys of WithSubjects, and returns it.
func (t *Token) Hashing(rotating bool) *Token {
	t.Subjects = []HeldSubjectKey{{1, OldSubjectKey}}
	if rotating {
		t.Subjects = []HeldSubjectKey{{2, NewSubjectKey}, {1, OldSubjectKey}}
	}
	return t
}

// A HeldSubjectKey is one version in a Token.
type HeldSubjectKey struct {
	Version uint32
	Key     SubjectKey
}

// Hash implements worker.SubjectHasher.
func (t *Token) Hash(in *keys.SubjectInput) (s [2]keys.Subject, err error) {
	if t.Before != nil {
		if err := t.Before(); err != nil {
			return s, err
		}
	}
	if len(t.Subjects) == 0 {
		return s, worker.ErrKeyUnknown
	}
	return t.subjects(in), nil
}

func (t *Token) subjects(in *keys.SubjectInput) (s [2]keys.Subject) {
	for i, k := range t.Subjects {
		s[i] = k.Key.Subject(k.Version, in)
	}
	return s
}
