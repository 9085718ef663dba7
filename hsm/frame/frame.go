// Package frame is the protocol between the daemon and the workers: typed
// requests in length-prefixed binary frames over a Unix socket, pipelined and
// bounded. It can express "verify this request under that key" and nothing
// about mechanisms, key chains, messages or handles.
//
// A connection starts with Hello from the client and Welcome from the worker,
// followed by as many KeyTable frames as Welcome announces. Then the client
// sends Verify and Health frames at will, and the worker answers each item
// once, in any order. Subject frames ask for the hash of a PAN alone, for
// administration; they name no key. GoAway says that the worker takes no new requests on
// this connection: the ones sent before are still answered. Anything that
// does not decode exactly ends the connection.
//
// Integers are little endian: both ends are on one machine.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// Version is the only protocol version this code speaks.
const Version = 2

// Limits of the protocol.
const (
	HeaderBytes     = 8
	MaxPayloadBytes = 64 << 10
	MaxBatch        = 256      // items of a Verify or Replies frame
	MaxKeys         = 64 << 10 // entries of one worker's key table
	EpochBytes      = 16
)

// Type is the kind of a frame. The zero value is invalid.
type Type uint8

// Frame types.
const (
	TypeHello    Type = 1  // client → worker
	TypeWelcome  Type = 2  // worker → client
	TypeKeyTable Type = 3  // worker → client
	TypeVerify   Type = 4  // client → worker
	TypeReplies  Type = 5  // worker → client
	TypeHealth   Type = 6  // client → worker: run a canary now
	TypeHealthy  Type = 7  // worker → client
	TypeGoAway   Type = 8  // worker → client
	TypeSubject  Type = 9  // client → worker: hash this PAN and sequence number
	TypeSubjects Type = 10 // worker → client
)

// Status is the answer to one item. Values are far apart, so that no single
// corrupted bit turns one into another; the zero value means nothing.
type Status uint32

// Statuses. Only StatusMatched and StatusMismatched say something about the
// cryptogram; all others mean that nothing was compared.
const (
	StatusMatched      Status = 0x96A5_3C0F // cryptogram is authentic; ARPC set if one was asked for
	StatusMismatched   Status = 0x695A_C3F0 // cryptogram was compared and is wrong
	StatusKeyUnknown   Status = 0x1B2D_4E71 // the worker has no such key
	StatusKeyUnproven  Status = 0x2E74_8B1D // the key failed its check value or canary, or its attributes are wrong
	StatusKeyInactive  Status = 0x47D1_2EB8 // the key's state does not allow verification
	StatusNotBound     Status = 0x7B82_E147 // the key may not serve this profile
	StatusMalformed    Status = 0x8D47_1BE2 // the typed request makes no plan
	StatusGuessLimit   Status = 0xB81E_742D // too many mismatches for this key and subject, of this caller or in all
	StatusExpired      Status = 0xD14B_87E2 // the deadline had passed before the token was asked
	StatusTokenFailure Status = 0xE27D_B814 // the token answered with an error
)

// Errors of decoding. They never carry the bytes.
var (
	ErrFrame   = errors.New("frame is malformed")
	ErrVersion = errors.New("frame protocol version is not supported")
	ErrTooBig  = errors.New("frame is larger than the protocol allows")
)

// A Header precedes each payload: length (4), type (1), version (1), count (2).
type Header struct {
	PayloadBytes uint32
	Type         Type
	Count        uint16 // items in the payload, 0 where the type has none
}

// Put writes the header into b, which has at least HeaderBytes.
func (h Header) Put(b []byte) {
	_ = b[HeaderBytes-1]
	binary.LittleEndian.PutUint32(b, h.PayloadBytes)
	b[4] = byte(h.Type)
	b[5] = Version
	binary.LittleEndian.PutUint16(b[6:], h.Count)
}

// ParseHeader reads a header from b, which has at least HeaderBytes, and checks
// that length and count can be those of a frame of its type. So a reader never
// waits for, or makes room for, more than the type needs.
func ParseHeader(b []byte) (Header, error) {
	h := Header{
		PayloadBytes: binary.LittleEndian.Uint32(b),
		Type:         Type(b[4]),
		Count:        binary.LittleEndian.Uint16(b[6:]),
	}
	switch {
	case b[5] != Version:
		return Header{}, fmt.Errorf("%w: got %d, want %d", ErrVersion, b[5], Version)
	case h.PayloadBytes > MaxPayloadBytes || h.Count > MaxBatch:
		return Header{}, ErrTooBig
	case !h.plausible():
		return Header{}, fmt.Errorf("%w: header of type %d", ErrFrame, b[4])
	}
	return h, nil
}

// plausible checks length and count against the type.
func (h Header) plausible() bool {
	n, count := int(h.PayloadBytes), int(h.Count)
	switch h.Type {
	case TypeHello:
		return n == len(magic) && count == 0
	case TypeWelcome:
		return n == welcomeBytes && count == 0
	case TypeKeyTable:
		return 0 < count && count <= keyTableEntries && n >= count*minKeyEntryBytes
	case TypeVerify:
		return 0 < count && n >= count*minItemBytes && n <= count*MaxItemBytes
	case TypeReplies:
		return 0 < count && n == count*ReplyBytes
	case TypeHealth:
		return n == healthBytes && count == 0
	case TypeHealthy:
		return n == healthyBytes && count == 0
	case TypeGoAway:
		return n == 0 && count == 0
	case TypeSubject:
		return n >= minSubjectBytes && n <= maxSubjectBytes && count == 0
	case TypeSubjects:
		return n == subjectsBytes && count == 0
	}
	return false
}

// Read reads one whole frame, for the handshake and for tests: the data path
// parses frames out of its own buffers. buf is reused if it is large enough.
func Read(r io.Reader, buf []byte) (Header, []byte, error) {
	var hb [HeaderBytes]byte
	if _, err := io.ReadFull(r, hb[:]); err != nil {
		return Header{}, nil, err
	}
	h, err := ParseHeader(hb[:])
	if err != nil {
		return Header{}, nil, err
	}
	if uint32(cap(buf)) < h.PayloadBytes {
		buf = make([]byte, h.PayloadBytes)
	}
	buf = buf[:h.PayloadBytes]
	if _, err := io.ReadFull(r, buf); err != nil {
		return Header{}, nil, err
	}
	return h, buf, nil
}

// Begin reserves a header at the end of b; End fills it in.
func Begin(b []byte) ([]byte, int) {
	return append(b, make([]byte, HeaderBytes)...), len(b)
}

// End writes the header reserved at start by Begin.
func End(b []byte, start int, t Type, count int) {
	Header{PayloadBytes: uint32(len(b) - start - HeaderBytes), Type: t, Count: uint16(count)}.Put(b[start:])
}

// Item is one request of a Verify frame.
type Item struct {
	ID       uint64 // chosen by the client, never reused on a connection
	Deadline int64  // CLOCK_MONOTONIC nanoseconds after which no answer is wanted; 0 is none
	Key      keys.ID
	Caller   uint32 // hash of the name of who asks the client, 0 is not said; for the limit on guesses only
	Request  cryptogram.Request
}

// Reply is the answer to one item.
type Reply struct {
	ID        uint64
	Status    Status
	ARPCBytes uint8 // 0, 4 or 8; only with StatusMatched
	ARPC      [8]byte

	// Subjects are the PAN and sequence number of the request, hashed under
	// the current subject key and, during a rotation, the previous one. Only
	// with StatusMatched and StatusMismatched, and only where the manifest of
	// the worker has such a key; version 0 is none.
	Subjects [2]keys.Subject
}
