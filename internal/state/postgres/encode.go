package postgres

import (
	"encoding/binary"
	"errors"

	"github.com/tapseal/tapseal/internal/state"
)

// The binary formats of parameters and results are those of PostgreSQL's send
// and receive functions (array_recv, uuid_recv, int8recv, bytea); the type
// numbers are of its catalogue and the same in all three databases. They are
// made by hand because a batch is then one buffer without an allocation.
const (
	oidBytea = 17
	oidInt8  = 20
	oidUUID  = 2950
)

var errMalformed = errors.New("the database answered in another form than expected")

// binaryFormat applies to all parameters and all results.
var binaryFormat = []int16{1} //nolint:gochecknoglobals // a constant in a form that pgconn takes

// arguments are the parameters of one statement, in one buffer.
type arguments struct {
	buf  []byte
	ends []int
	out  [][]byte
}

func (a *arguments) reset() { a.buf, a.ends = a.buf[:0], a.ends[:0] }

func (a *arguments) end() { a.ends = append(a.ends, len(a.buf)) }

// values are valid until the next reset.
func (a *arguments) values() [][]byte {
	a.out = a.out[:0]
	start := 0
	for _, end := range a.ends {
		a.out = append(a.out, a.buf[start:end:end])
		start = end
	}
	return a.out
}

func (a *arguments) uuid(k [16]byte) { a.buf = append(a.buf, k[:]...); a.end() }

func (a *arguments) int8(n uint64) { a.buf = binary.BigEndian.AppendUint64(a.buf, n); a.end() }

func (a *arguments) bytes(b []byte) { a.buf = append(a.buf, b...); a.end() }

// array begins an array of n elements, which the caller appends and ends.
func (a *arguments) array(oid, n int) {
	dimensions := uint32(1)
	if n == 0 {
		dimensions = 0
	}
	a.buf = binary.BigEndian.AppendUint32(a.buf, dimensions)
	a.buf = binary.BigEndian.AppendUint32(a.buf, 0) // no NULL
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(oid))
	if n > 0 {
		a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(n))
		a.buf = binary.BigEndian.AppendUint32(a.buf, 1) // the first index
	}
}

func (a *arguments) element(b []byte) {
	a.buf = binary.BigEndian.AppendUint32(a.buf, uint32(len(b)))
	a.buf = append(a.buf, b...)
}

func (a *arguments) element8(n uint64) {
	a.buf = binary.BigEndian.AppendUint32(a.buf, 8)
	a.buf = binary.BigEndian.AppendUint64(a.buf, n)
}

func readInt8(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, errMalformed
	}
	return binary.BigEndian.Uint64(b), nil
}

// readKeys calls f for each key of a uuid array; NULL is an empty one.
func readKeys(b []byte, f func(state.Key) error) error {
	const header, element = 20, 4 + state.KeyBytes
	if len(b) < header {
		return nil // NULL, or no dimension
	}
	n := int(binary.BigEndian.Uint32(b[12:]))
	b = b[header:]
	if len(b) != n*element {
		return errMalformed
	}
	for ; len(b) > 0; b = b[element:] {
		if err := f(state.Key(b[4:element])); err != nil {
			return err
		}
	}
	return nil
}
