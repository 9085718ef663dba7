package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// Encoded sizes in bytes.
const (
	transactionBytes = 33
	itemFixedBytes   = 8 + 8 + keys.IDBytes + 4 + 2 + 1 + 1 + 1 + transactionBytes + 8
	minItemBytes     = 2 + itemFixedBytes + cryptogram.MinPANDigits + 1 + 1 + 1

	// ReplyBytes is the size of every encoded reply.
	ReplyBytes = 8 + 4 + 1 + 8 + hashesBytes
	// MaxItemBytes bounds one encoded item, its length prefix included.
	MaxItemBytes = 2 + itemFixedBytes + cryptogram.MaxPANDigits + 1 + 32 + 1 + 6 + 1 + 4 + 1 + 8
)

// Full Verify and Replies frames fit the payload bound, so batches are counted
// in items only.
var (
	_ [MaxPayloadBytes - MaxBatch*MaxItemBytes]struct{}
	_ [MaxPayloadBytes - MaxBatch*ReplyBytes]struct{}
)

// Encodable reports whether AppendItem and DecodeItem carry r without change of
// meaning. A peer ends the connection over an item that does not decode, with
// all others on it, so nothing else may be sent.
func Encodable(r *cryptogram.Request) bool {
	p := &r.Response
	return !r.PAN.IsZero() &&
		int(r.IAD.Len) <= len(r.IAD.Bytes) &&
		int(r.CVR.Len) <= len(r.CVR.Bytes) &&
		int(p.PADLen) <= len(p.PAD) &&
		(p.Kind == cryptogram.NoResponse || p.Kind == cryptogram.ResponseCode || p.Kind == cryptogram.CardStatusUpdate)
}

// AppendItem appends the encoding of it: length (2), then id, deadline, key,
// caller (4), profile (2), option (1), PAN length (1) and digits, sequence number (1, BCD),
// the 33 bytes of transaction data, IAD and CVR with their lengths (1 each),
// the cryptogram (8) and the response kind (1) with its fields. The request
// must be Encodable.
func AppendItem(b []byte, it *Item) []byte {
	start := len(b)
	b = append(b, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, it.ID)
	b = binary.LittleEndian.AppendUint64(b, uint64(it.Deadline))
	b = append(b, it.Key[:]...)
	b = binary.LittleEndian.AppendUint32(b, it.Caller)
	r := &it.Request
	b = binary.LittleEndian.AppendUint16(b, uint16(r.Profile))
	b = append(b, byte(r.KeyOption), byte(r.PAN.Len()))
	b = r.PAN.AppendDigits(b)
	b = append(b, r.PSN.BCD())
	b = appendTransaction(b, &r.Data)
	b = append(b, r.IAD.Len)
	b = append(b, r.IAD.Bytes[:min(int(r.IAD.Len), len(r.IAD.Bytes))]...)
	b = append(b, r.CVR.Len)
	b = append(b, r.CVR.Bytes[:min(int(r.CVR.Len), len(r.CVR.Bytes))]...)
	b = append(b, r.Cryptogram[:]...)
	b = append(b, byte(r.Response.Kind))
	switch r.Response.Kind {
	case cryptogram.ResponseCode:
		b = append(b, r.Response.ARC[:]...)
	case cryptogram.CardStatusUpdate:
		b = append(b, r.Response.CSU[:]...)
		b = append(b, r.Response.PADLen)
		b = append(b, r.Response.PAD[:min(int(r.Response.PADLen), len(r.Response.PAD))]...)
	}
	binary.LittleEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	return b
}

func appendTransaction(b []byte, d *cryptogram.TransactionData) []byte {
	b = append(b, d.AmountAuthorised[:]...)
	b = append(b, d.AmountOther[:]...)
	b = append(b, d.TerminalCountry[:]...)
	b = append(b, d.TVR[:]...)
	b = append(b, d.Currency[:]...)
	b = append(b, d.Date[:]...)
	b = append(b, d.Type[:]...)
	b = append(b, d.UN[:]...)
	b = append(b, d.AIP[:]...)
	return append(b, d.ATC[:]...)
}

// DecodeItem reads one item from the front of b into it, whatever it held
// before, and returns the rest. It keeps no reference to b. An encoding that
// is not exactly what AppendItem makes is an error.
func DecodeItem(b []byte, it *Item) ([]byte, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("%w: item length", ErrFrame)
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n+2 > MaxItemBytes || len(b) < n+2 {
		return nil, fmt.Errorf("%w: item length", ErrFrame)
	}
	d := decoder{b: b[2 : n+2]}
	*it = Item{}
	it.ID = d.u64()
	it.Deadline = int64(d.u64())
	d.copy(it.Key[:])
	it.Caller = d.u32()
	d.request(&it.Request)
	if d.bad || len(d.b) != 0 {
		return nil, fmt.Errorf("%w: item", ErrFrame)
	}
	return b[n+2:], nil
}

// decoder consumes b; after the first fault it is bad and yields zeros.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) copy(dst []byte) { copy(dst, d.take(len(dst))) }

func (d *decoder) u8() byte {
	if v := d.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if v := d.take(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if v := d.take(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if v := d.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

// bytes copies a length-prefixed value of at most len(dst) bytes.
func (d *decoder) bytes(dst []byte) uint8 {
	n := d.u8()
	if int(n) > len(dst) {
		d.bad = true
		return 0
	}
	d.copy(dst[:n])
	return n
}

func (d *decoder) request(r *cryptogram.Request) {
	r.Profile = cryptogram.ProfileID(d.u16())
	r.KeyOption = cryptogram.KeyOption(d.u8())
	d.account(&r.PAN, &r.PSN)
	d.transaction(&r.Data)
	r.IAD.Len = d.bytes(r.IAD.Bytes[:])
	r.CVR.Len = d.bytes(r.CVR.Bytes[:])
	d.copy(r.Cryptogram[:])
	r.Response.Kind = cryptogram.ResponseKind(d.u8())
	switch r.Response.Kind {
	case cryptogram.NoResponse:
	case cryptogram.ResponseCode:
		d.copy(r.Response.ARC[:])
	case cryptogram.CardStatusUpdate:
		d.copy(r.Response.CSU[:])
		r.Response.PADLen = d.bytes(r.Response.PAD[:])
	default:
		d.bad = true
	}
}

func (d *decoder) account(pan *cryptogram.PAN, psn *cryptogram.PSN) {
	var digits [cryptogram.MaxPANDigits]byte
	n := d.bytes(digits[:])
	var err error
	if *pan, err = cryptogram.PANFromASCII(digits[:n]); err != nil {
		d.bad = true
	}
	if *psn, err = cryptogram.PSNFromBCD(d.u8()); err != nil {
		d.bad = true
	}
}

func (d *decoder) transaction(t *cryptogram.TransactionData) {
	d.copy(t.AmountAuthorised[:])
	d.copy(t.AmountOther[:])
	d.copy(t.TerminalCountry[:])
	d.copy(t.TVR[:])
	d.copy(t.Currency[:])
	d.copy(t.Date[:])
	d.copy(t.Type[:])
	d.copy(t.UN[:])
	d.copy(t.AIP[:])
	d.copy(t.ATC[:])
}

// AppendReply appends the encoding of r.
func AppendReply(b []byte, r *Reply) []byte {
	b = binary.LittleEndian.AppendUint64(b, r.ID)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Status))
	b = append(b, r.ARPCBytes)
	b = append(b, r.ARPC[:]...)
	return appendHashes(b, &r.Subjects)
}

// DecodeReply reads one reply from the front of b into r and returns the rest.
// An unknown status, a response cryptogram beside anything but a match, or a
// subject beside anything but a comparison, is an error: no answer is better
// than a wrong one.
func DecodeReply(b []byte, r *Reply) ([]byte, error) {
	if len(b) < ReplyBytes {
		return nil, fmt.Errorf("%w: reply length", ErrFrame)
	}
	d := decoder{b: b[:ReplyBytes]}
	r.ID = d.u64()
	r.Status = Status(d.u32())
	r.ARPCBytes = d.u8()
	d.copy(r.ARPC[:])
	d.hashes(&r.Subjects)
	compared := r.Status == StatusMatched || r.Status == StatusMismatched
	if d.bad || (!compared && r.Subjects[0].Version != 0) {
		return nil, fmt.Errorf("%w: reply subjects", ErrFrame)
	}
	if !r.Status.known() {
		return nil, fmt.Errorf("%w: reply status", ErrFrame)
	}
	switch {
	case r.ARPCBytes == 0 && r.ARPC == [8]byte{}:
	case r.Status != StatusMatched:
		return nil, fmt.Errorf("%w: reply ARPC", ErrFrame)
	case r.ARPCBytes == 8:
	case r.ARPCBytes == 4 && [4]byte(r.ARPC[4:]) == [4]byte{}:
	default:
		return nil, fmt.Errorf("%w: reply ARPC", ErrFrame)
	}
	return b[ReplyBytes:], nil
}

func (s Status) known() bool {
	switch s {
	case StatusMatched, StatusMismatched, StatusKeyUnknown, StatusKeyUnproven, StatusKeyInactive,
		StatusNotBound, StatusMalformed, StatusGuessLimit, StatusExpired, StatusTokenFailure:
		return true
	}
	return false
}
