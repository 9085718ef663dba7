package embedded

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
)

// Keys begin with one of these bytes. A record's value is its version (8 bytes,
// big endian) and the record; a counter's is its number and the Unix time in
// seconds after which it may be deleted, 8 bytes each. An expiry entry has no
// value: its key is the hour in which a counter can be deleted (4 bytes, big
// endian) and the counter's key.
const (
	spaceMeta    = 0
	spaceRecord  = 1
	spaceCounter = 2
	spaceExpiry  = 3
)

// Keys of spaceMeta.
var (
	keyIdentity = [...]byte{spaceMeta, 'i'} // layout (1 byte), state id (16)
	keySequence = [...]byte{spaceMeta, 's'} // of the last commit (8)
	keyControl  = [...]byte{spaceMeta, 'c'} // epoch (8), document
)

// layout is the version of all this.
const layout = 1

const (
	versionBytes  = 8
	counterBytes  = 16
	hourSeconds   = 3600
	spacedBytes   = 1 + state.KeyBytes
	expiryBytes   = 1 + 4 + state.KeyBytes
	identityBytes = 1 + len(StateID{})
)

// spaced is a key in its space, written into buf.
func spaced(buf *[spacedBytes]byte, space byte, k *state.Key) []byte {
	buf[0] = space
	copy(buf[1:], k[:])
	return buf[:]
}

// expiryHour is the first hour in which a counter may be deleted.
func expiryHour(expires int64) uint32 {
	if expires < 0 {
		return 0
	}
	return uint32(min(expires/hourSeconds+1, math.MaxUint32))
}

func expiryKey(hour uint32, k *state.Key) (out [expiryBytes]byte) {
	out[0] = spaceExpiry
	binary.BigEndian.PutUint32(out[1:], hour)
	copy(out[5:], k[:])
	return out
}

type counter struct {
	n       uint64
	expires int64
}

var errDamaged = errors.New("a value in the database is malformed")

func decodeCounter(v []byte) (counter, error) {
	if len(v) != counterBytes {
		return counter{}, errDamaged
	}
	return counter{binary.BigEndian.Uint64(v), int64(binary.BigEndian.Uint64(v[8:]))}, nil
}

func (c counter) encode(v []byte) {
	binary.BigEndian.PutUint64(v, c.n)
	binary.BigEndian.PutUint64(v[8:], uint64(c.expires))
}

// meta is what is not a record or a counter.
type meta struct {
	id       StateID
	sequence uint64
	control  state.Control
}

var errNoState = errors.New("there is no state in it")

// readMeta reads a state's identity, sequence and control document.
func readMeta(db *pebble.DB) (m meta, err error) {
	identity, err := get(db, keyIdentity[:])
	switch {
	case err != nil:
		return m, err
	case identity == nil:
		return m, errNoState
	case len(identity) == 0 || identity[0] < layout:
		return m, errDamaged
	case identity[0] > layout:
		return m, fmt.Errorf("its layout is version %d, this program knows %d: it was written by a newer version", identity[0], layout)
	case len(identity) != identityBytes:
		return m, errDamaged
	}
	copy(m.id[:], identity[1:])
	sequence, err := get(db, keySequence[:])
	if err != nil {
		return m, err
	}
	control, err := get(db, keyControl[:])
	if err != nil {
		return m, err
	}
	if len(sequence) != 8 || control != nil && len(control) < 8 {
		return m, errDamaged
	}
	m.sequence = binary.BigEndian.Uint64(sequence)
	if control != nil {
		m.control = state.Control{Epoch: binary.BigEndian.Uint64(control), Document: control[8:]}
	}
	return m, nil
}

// createMeta makes a new state.
func createMeta(db *pebble.DB) (m meta, err error) {
	_, _ = rand.Read(m.id[:]) // never fails
	b := db.NewBatch()
	_ = b.Set(keyIdentity[:], append([]byte{layout}, m.id[:]...), nil)
	_ = b.Set(keySequence[:], make([]byte, 8), nil)
	return m, b.Commit(pebble.Sync)
}

// get copies a value; nil is none.
func get(db *pebble.DB, key []byte) ([]byte, error) {
	v, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the database: %w", clean(err))
	}
	defer closer.Close() //nolint:errcheck // after a successful read it has none
	return append([]byte{}, v...), nil
}
