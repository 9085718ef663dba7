package pkcs11

import (
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// hashing gives the objects that hash subjects.
func (ks *keystore) hashing() (h subjectHandles) {
	for i, k := range ks.subjects {
		if k != nil {
			h[i] = k.root()
		}
	}
	return h
}

// admitSubject checks what must hold before a subject may be hashed: all keys
// in force are proved. One that fails says nothing about the issuer key of the
// job, so its error is not passed on as such.
func (t *Token) admitSubject() error {
	if err := t.usableSubjects(); err != nil {
		return fmt.Errorf("%w: %s", worker.ErrSubject, err.Error())
	}
	return nil
}

func (t *Token) usableSubjects() error {
	for _, k := range t.keystore.subjects {
		if k == nil {
			continue
		}
		if err := t.usable(k); err != nil {
			return err
		}
	}
	return nil
}

// takeSubjects gives what job i hashed.
func (t *Token) takeSubjects(i int) (s [2]keys.Subject) {
	hashes := t.engine.takeHashes(i)
	for n, k := range t.keystore.subjects {
		if k != nil {
			s[n] = keys.Subject{Version: k.version.Number, Hash: hashes[n]}
		}
	}
	return s
}

// Hash hashes one subject by itself, as worker.SubjectHasher says.
func (t *Token) Hash(in *keys.SubjectInput) ([2]keys.Subject, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.resident {
		t.tick()
	}
	switch {
	case t.dead != nil:
		return [2]keys.Subject{}, t.dead
	case t.keystore.subjects[0] == nil:
		return [2]keys.Subject{}, worker.ErrKeyUnknown
	}
	if err := t.usableSubjects(); err != nil {
		return [2]keys.Subject{}, err
	}
	t.engine.loadHash(0, t.keystore.hashing(), in.Bytes())
	t.run(1, func(i int) { t.noteGone(i, nil) })
	if err := t.engine.done(0); err != nil {
		return [2]keys.Subject{}, fmt.Errorf("hashing a subject: %w", err)
	}
	return t.takeSubjects(0), nil
}

// subjectCanary is the proof of a subject key's value in the object h: check
// value and canary, two hashes of fixed inputs.
func (t *Token) subjectCanary(k *heldKey, h p11.ObjectHandle, gone func()) (fault string, err error) {
	loadSubjectCanary(t.engine, h)
	t.run(subjectCanaryJobs, func(i int) {
		if _, isGone := t.engine.subjectGone(i); isGone {
			gone()
		}
	})
	got, err := takeSubjectCanary(t.engine)
	if err != nil {
		return "", err
	}
	return k.subjectVerdict(&got), nil
}

// subjectCanaryJobs are the two hashes that prove a subject key.
const subjectCanaryJobs = 2

func loadSubjectCanary(e *engine, h p11.ObjectHandle) {
	e.loadHash(0, subjectHandles{h}, []byte(keys.SubjectCheckInput))
	e.loadHash(1, subjectHandles{h}, []byte(keys.SubjectCanaryInput))
}

// takeSubjectCanary gives check value and canary.
func takeSubjectCanary(e *engine) (v keys.Version, err error) {
	for i := range subjectCanaryJobs {
		if err := e.done(i); err != nil {
			return v, err
		}
	}
	check, canary := e.takeHashes(0), e.takeHashes(1)
	copy(v.CheckValue[:], check[0][:])
	copy(v.Canary[:], canary[0][:])
	return v, nil
}

func (k *heldKey) subjectVerdict(got *keys.Version) (fault string) {
	switch {
	case got.CheckValue != k.version.CheckValue:
		return "the check value is another"
	case got.Canary != k.version.Canary:
		return "the canary is another"
	}
	return ""
}
