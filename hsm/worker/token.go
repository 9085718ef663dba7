// Package worker is the data worker: it serves typed verification requests
// from a socket with the keys of one token. It builds every plan itself from
// the compiled profile table, compares inside the token's process, and has no
// operation that makes, imports, wraps or destroys a key.
package worker

import (
	"errors"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// A Job is one plan under one key. The worker reuses jobs: Outcome, Subjects
// and Err are overwritten by Execute.
type Job struct {
	Key     keys.ID
	Plan    cryptogram.Plan
	Subject keys.SubjectInput // hashed behind the plan, if the manifest has a subject key; zero: nothing is

	Outcome  cryptogram.Outcome
	Subjects [2]keys.Subject // under the current and the previous subject key
	Err      error           // set: neither outcome nor subjects may be used
}

// Errors that a Token gives for one job or key.
var (
	ErrKeyUnknown  = errors.New("no such key in this token")
	ErrKeyUnproven = errors.New("the key failed its check value, canary or attribute check")
	ErrNotBound    = errors.New("the key is for another use")
	// ErrSubject is a failure of the subject key in a job under another key.
	// It says nothing about that key, so it wraps none of the errors above.
	ErrSubject = errors.New("the subject could not be hashed")
)

// A Token executes plans. The one in hsm/pkcs11 does it in a PKCS#11 module,
// the one in cryptogram/software in memory, for tests.
type Token interface {
	// Execute runs the jobs one after the other on the calling goroutine,
	// in one crossing into the module, and fills in Outcome, Subjects and Err
	// of each. A job whose subject could not be hashed has failed.
	// A key is proved (attributes, check value, canary) before its first use
	// in the process; a key that fails is never used. After an error of the
	// module the session is discarded and the jobs not run get their own try
	// on a new one. It must not be called concurrently.
	Execute(jobs []*Job)
}

// A SubjectHasher hashes one subject by itself: current first, then previous.
// Without a subject key in the manifest the error is ErrKeyUnknown.
type SubjectHasher interface {
	Hash(in *keys.SubjectInput) ([2]keys.Subject, error)
}

// KeyProof reports whether the token holds exactly the key that the manifest
// describes. Health runs it on one key.
type KeyProof interface {
	Prove(id keys.ID) error
}
