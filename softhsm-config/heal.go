package softhsmconfig

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// tokenObject is SoftHSM's file with a token's label, flags and PINs.
const tokenObject = "token.object"

// betweenLooks is the time after which a file that is still damaged was left
// so. SoftHSM's own lock does not tell: each login takes it, truncates the
// file, gives the lock back and only then writes, all within microseconds.
const betweenLooks = 100 * time.Millisecond

// maxTokenObjectBytes bounds the file, which has 320 bytes.
const maxTokenObjectBytes = 64 << 10

// errDamaged means that a token object has not all that SoftHSM needs.
var errDamaged = errors.New("the token's own file is damaged")

// Heal puts the copy of token.object back if SoftHSM left the file damaged, and
// reports whether it did. Every login truncates and rewrites that file, and a
// process killed in between leaves a token that no later process finds. It may
// be called at any time, also while workers log in: what they write is what
// the copy has, and one that still holds the damaged file writes into nothing.
func Heal(dir string) (restored bool, err error) {
	l := Layout{Dir: dir}
	if _, err := l.soundToken(); !errors.Is(err, errDamaged) {
		return false, err
	}
	saved, err := os.ReadFile(l.savedToken())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("%w, and there is no copy of it: %s", errDamaged, remedy)
	case err != nil:
		return false, fmt.Errorf("reading the copy of %s: %w", tokenObject, err)
	case !soundTokenObject(saved):
		return false, fmt.Errorf("%w, and so is its copy: %s", errDamaged, remedy)
	}
	path, err := l.tokenObject()
	if err != nil {
		return false, err
	}
	return true, ReplaceFile(path, saved, 0o600)
}

// Suspect reports whether token.object may be damaged, which Heal finds out: it
// looks at sizes only, and once, and a login changes the size for an instant.
func Suspect(dir string) bool {
	l := Layout{Dir: dir}
	path, err := l.tokenObject()
	if err != nil {
		return false
	}
	have, err := os.Stat(path)
	if err != nil {
		return false
	}
	saved, err := os.Stat(l.savedToken())
	return err == nil && have.Size() != saved.Size()
}

// saveToken keeps a copy of token.object, on disk before it returns.
func (l Layout) saveToken() error {
	data, err := l.soundToken()
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(l.savedToken()); err == nil && bytes.Equal(have, data) {
		return nil
	}
	if err := os.Mkdir(l.Backup(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("saving %s: %w", tokenObject, err)
	}
	if err := ReplaceFile(l.savedToken(), data, 0o600); err != nil {
		return err
	}
	return syncDir(l.Dir)
}

// soundToken reads token.object, twice if a login may be under way.
func (l Layout) soundToken() ([]byte, error) {
	path, err := l.tokenObject()
	if err != nil {
		return nil, err
	}
	for range 2 {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", tokenObject, err)
		}
		if soundTokenObject(data) {
			return data, nil
		}
		time.Sleep(betweenLooks)
	}
	return nil, errDamaged
}

// tokenObject finds the file of the one token.
func (l Layout) tokenObject() (string, error) {
	entries, err := os.ReadDir(l.Tokens())
	if err != nil {
		return "", fmt.Errorf("looking for the token: %w", err)
	}
	path, n := "", 0
	for _, e := range entries {
		p := filepath.Join(l.Tokens(), e.Name(), tokenObject)
		if _, err := os.Stat(p); err == nil {
			path, n = p, n+1
		}
	}
	if n != 1 {
		return "", fmt.Errorf("%d tokens in %s, want 1: %s", n, l.Tokens(), remedy)
	}
	return path, nil
}

// Kinds of attributes in a file of SoftHSM's object store.
const (
	kindBool  = 1
	kindUlong = 2
	kindBytes = 3
)

// soundTokenObject reports whether data is a whole token object: a generation
// number and then attributes of type, kind and value, all numbers of 8 bytes,
// among them those that SoftHSM needs for a login (src/lib/object_store of
// SoftHSM 2.6: ObjectFile.cpp, OSAttributes.h).
func soundTokenObject(data []byte) bool {
	const firstNeeded, allNeeded = 0x80005349, 1<<5 - 1 // label, serial, flags, SO PIN, user PIN
	var seen uint
	word := func() (v uint64, ok bool) {
		if len(data) < 8 {
			return 0, false
		}
		v, data = binary.BigEndian.Uint64(data), data[8:]
		return v, true
	}
	if len(data) > maxTokenObjectBytes {
		return false
	}
	if _, ok := word(); !ok {
		return false
	}
	for len(data) > 0 {
		attribute, _ := word()
		kind, _ := word()
		size, ok := uint64(8), true
		switch kind {
		case kindBool:
			size = 1
		case kindUlong:
		case kindBytes:
			size, ok = word()
		default:
			return false
		}
		if !ok || size > uint64(len(data)) {
			return false
		}
		data = data[size:]
		if n := attribute - firstNeeded; n < 5 && size > 0 {
			seen |= 1 << n
		}
	}
	return seen == allNeeded
}
