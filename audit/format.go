package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"strconv"
	"strings"
)

// A segment file is a segment header and then groups without gaps; what
// follows the last group is zero (preallocated) or missing. A group is what
// one write and one fdatasync made durable: a group header and its records.
//
//	segment header: magic 8 ‖ journal id 16 ‖ segment number 8 ‖
//	                sequence of the first record 8 ‖ chain value before it 32 ‖ CRC-32C 4
//	group header:   magic 4 ‖ bytes of the records 4 ‖ number of records 4 ‖
//	                sequence of the first record 8 ‖ chain value after it 32 ‖ CRC-32C 4
//	record:         length 4 ‖ CRC-32C 4 ‖ body
//
// Integers are big endian. The chain value after a group is
// SHA-256(chain value before it ‖ first 20 bytes of the group header ‖ records).
// It makes every later change of a group visible in all that follow; against
// somebody who recomputes the whole rest only an anchor elsewhere helps.
const (
	segmentMagic       = "TSJRNL\x00\x01" // the last byte is the version of the format
	segmentHeaderBytes = 8 + idBytes + 8 + 8 + sha256.Size + 4
	groupMagic         = "\x93TSG" // not ASCII: no request id can contain it
	groupHeaderBytes   = groupFixedBytes + sha256.Size + 4
	groupFixedBytes    = 4 + 4 + 4 + 8
	idBytes            = 16

	// maxGroupBytes bounds the records of one group, and so what is pending.
	maxGroupBytes = 4 << 20
)

type (
	journalID  [idBytes]byte
	chainValue [sha256.Size]byte
)

// checksum is CRC-32C, which amd64 and arm64 compute in hardware.
func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// firstChain binds the chain to the journal, so that a segment of another
// journal never fits.
func firstChain(id journalID) chainValue {
	return sha256.Sum256(append([]byte("tapseal audit journal 1"), id[:]...))
}

type segmentHeader struct {
	id     journalID
	number uint64
	first  uint64
	chain  chainValue
}

func (h *segmentHeader) encode() []byte {
	b := make([]byte, 0, segmentHeaderBytes)
	b = append(b, segmentMagic...)
	b = append(b, h.id[:]...)
	b = binary.BigEndian.AppendUint64(b, h.number)
	b = binary.BigEndian.AppendUint64(b, h.first)
	b = append(b, h.chain[:]...)
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

func decodeSegmentHeader(b []byte) (segmentHeader, error) {
	var h segmentHeader
	if len(b) < segmentHeaderBytes {
		return h, errors.New("segment header is incomplete")
	}
	b = b[:segmentHeaderBytes]
	if string(b[:7]) != segmentMagic[:7] {
		return h, errors.New("not a journal segment")
	}
	if b[7] != segmentMagic[7] {
		return h, fmt.Errorf("journal format %d, only %d is known", b[7], segmentMagic[7])
	}
	if checksum(b[:segmentHeaderBytes-4]) != binary.BigEndian.Uint32(b[segmentHeaderBytes-4:]) {
		return h, errors.New("segment header fails its checksum")
	}
	copy(h.id[:], b[8:])
	h.number = binary.BigEndian.Uint64(b[24:])
	h.first = binary.BigEndian.Uint64(b[32:])
	copy(h.chain[:], b[40:])
	return h, nil
}

type groupHeader struct {
	size    uint32 // bytes of the records
	records uint32
	first   uint64 // sequence of the first record
	chain   chainValue
}

// sealGroup fills in the header that the first groupHeaderBytes of group are
// reserved for and returns the chain value after it.
func sealGroup(group []byte, records uint32, first uint64, before *chainValue, h *chainHasher) chainValue {
	copy(group, groupMagic)
	binary.BigEndian.PutUint32(group[4:], uint32(len(group)-groupHeaderBytes))
	binary.BigEndian.PutUint32(group[8:], records)
	binary.BigEndian.PutUint64(group[12:], first)
	chain := h.after(before, group[:groupFixedBytes], group[groupHeaderBytes:])
	copy(group[groupFixedBytes:], chain[:])
	sum := checksum(group[:groupHeaderBytes-4])
	binary.BigEndian.PutUint32(group[groupHeaderBytes-4:], sum)
	return chain
}

// chainHasher keeps what hashing needs, so that a group allocates nothing.
type chainHasher struct {
	hash hash.Hash
	sum  chainValue
}

func newChainHasher() *chainHasher { return &chainHasher{hash: sha256.New()} }

// after is the chain value after a group.
func (h *chainHasher) after(before *chainValue, fixed, records []byte) chainValue {
	h.hash.Reset()
	h.hash.Write(before[:])
	h.hash.Write(fixed)
	h.hash.Write(records)
	h.hash.Sum(h.sum[:0])
	return h.sum
}

// decodeGroupHeader reports false for anything but a whole, undamaged header.
func decodeGroupHeader(b []byte) (h groupHeader, ok bool) {
	if len(b) < groupHeaderBytes || !bytes.HasPrefix(b, []byte(groupMagic)) {
		return h, false
	}
	if checksum(b[:groupHeaderBytes-4]) != binary.BigEndian.Uint32(b[groupHeaderBytes-4:]) {
		return h, false
	}
	h.size = binary.BigEndian.Uint32(b[4:])
	h.records = binary.BigEndian.Uint32(b[8:])
	h.first = binary.BigEndian.Uint64(b[12:])
	copy(h.chain[:], b[groupFixedBytes:])
	// A group can outgrow the bound by the record that reached it.
	return h, h.size > 0 && h.size <= 2*maxGroupBytes && h.records > 0
}

const (
	segmentSuffix = ".journal"
	partialSuffix = ".partial" // a segment whose header is not durable yet
	tornInfix     = ".torn-"   // what recovery cut off
	lockName      = "lock"
)

func segmentName(number uint64) string { return fmt.Sprintf("%012d%s", number, segmentSuffix) }

// segmentNumber is the inverse of segmentName.
func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n > 0 && segmentName(n) == name
}
