package state

import (
	"encoding/binary"
	"errors"
	"math"
)

// Sizes of what a record holds.
const (
	DigestBytes   = 7  // of a request: it has to collide with one accepted for the same token and ATC
	ResponseBytes = 4  // of an issuer's decision
	UNBytes       = 4  // unpredictable number
	NameHashBytes = 8  // of a device or merchant
	WindowBits    = 64 // ATCs that a window can tell apart

	MaxAccepted   = 15              // remembered requests
	MaxFailing    = 4               // callers whose failures a token remembers
	MaxFailed     = 4               // failed requests that a token remembers
	MaxListed     = 16              // entries of one list of a restriction
	MaxNoteText   = 190             // bytes; so that the fullest record has at most MaxRecordBytes
	maxAmount     = 999_999_999_999 // n 12
	recordVersion = 1
)

// Status is the state of a token. The zero value is none.
type Status uint8

// States of a token. A token without a record is what the policy says of
// unknown ones.
const (
	Active    Status = 1
	Suspended Status = 2
	Deleted   Status = 3 // for good
	Moved     Status = 4 // the record is under a newer subject key
	Noted     Status = 5 // nothing but failures is known: as good as no record
)

// A Digest stands for one request: of its caller, id and content, under a key
// that only this token has.
type Digest [DigestBytes]byte

// A NameHash stands for a device or a merchant.
type NameHash [NameHashBytes]byte

// An Accepted is a request whose cryptogram was accepted.
type Accepted struct {
	ATC      uint16
	Digest   Digest
	UN       [UNBytes]byte
	Response [ResponseBytes]byte // zero: none was made
}

// A Window is a set of ATCs: the highest one, and of the WindowBits up to it
// which were seen. Bit i of Seen is Highest − i. Seen 0 is an empty window.
type Window struct {
	Highest uint16
	Seen    uint64
}

// Advised is what advices reported of cryptograms of one type.
type Advised struct {
	Window
	Last Digest // the request that set the last bit
}

// Failing counts the mismatches of one caller for one token.
type Failing struct {
	Caller uint32 // hash of the caller's name
	Count  uint8
	Last   uint32 // Unix seconds
}

// A Velocity is what was accepted since Start.
type Velocity struct {
	Start  uint32 // Unix seconds
	Count  uint16
	Amount uint64 // in the currency of the rule, minor units
}

// A Restriction says where a token may be used. An empty list or zero value
// does not restrict.
type Restriction struct {
	Device     NameHash // the one that the token is bound to
	Channels   uint8    // bit n for Channel n
	AmountCap  uint64   // of one transaction, minor units of whatever currency
	Currencies []uint16 // ISO 4217 numeric codes as BCD
	Categories []uint16 // merchant category codes, ISO 18245, as BCD
	Merchants  []NameHash
	// Terminals are terminal types (EMV Book 4, annex A1).
	Terminals []uint8
}

// IsZero reports whether nothing is restricted.
func (r *Restriction) IsZero() bool {
	return r.Device == NameHash{} && r.Channels == 0 && r.AmountCap == 0 &&
		len(r.Currencies) == 0 && len(r.Categories) == 0 && len(r.Merchants) == 0 && len(r.Terminals) == 0
}

// A Note says who changed the status last, when and why. The journal has all of
// them; this one saves asking it.
type Note struct {
	At  int64 // Unix seconds
	By  string
	Why string
}

// A Record is what is known of one token, or, with nothing but Status and Note,
// of one device. Its memory is reused from one Decode to the next.
type Record struct {
	Status     Status
	Generation uint32 // of the state when the record was written
	Floor      uint16 // no ATC up to it is accepted, seen or not
	ARQC       Window // consumed by AUTHORISE
	TC, AAC    Advised
	Accepted   []Accepted // oldest first
	Failing    []Failing
	Failed     []Digest // counted already, oldest first
	Velocity   Velocity
	Restricted Restriction
	Note       Note
}

// Reset makes the record empty and keeps its memory.
func (r *Record) Reset() {
	*r = Record{Accepted: r.Accepted[:0], Failing: r.Failing[:0], Failed: r.Failed[:0]}
}

// Known reports whether somebody registered the token, or had a cryptogram of it
// accepted.
func (r *Record) Known() bool { return r.Status != 0 && r.Status != Noted }

// Blocks of an encoded record, bits of its flags. The lowest three bits are the
// status, the highest four the number of accepted requests.
const (
	hasGeneration = 1 << (3 + iota)
	hasFloor
	hasResponses
	hasTC
	hasAAC
	hasFailures
	hasVelocity
	hasRestriction
	hasNote

	statusMask    = 7
	acceptedShift = 12
)

// errRecord is the error of bytes that Append did not write. It names none of
// them.
var errRecord = errors.New("a state record is damaged or of a newer version")

// Append appends the encoding of the record. In the common case, an active
// token with three accepted and answered requests, it has 64 bytes: version (1),
// flags (2), highest ATC (2) and bits (8), and for each request ATC (2), digest
// (7), unpredictable number (4) and response (4).
func (r *Record) Append(b []byte) []byte {
	flags := r.flags()
	b = append(b, recordVersion)
	b = binary.LittleEndian.AppendUint16(b, flags)
	b = r.ARQC.append(b)
	if flags&hasGeneration != 0 {
		b = binary.LittleEndian.AppendUint32(b, r.Generation)
	}
	if flags&hasFloor != 0 {
		b = binary.LittleEndian.AppendUint16(b, r.Floor)
	}
	for i := range r.Accepted {
		a := &r.Accepted[i]
		b = binary.LittleEndian.AppendUint16(b, a.ATC)
		b = append(append(b, a.Digest[:]...), a.UN[:]...)
		if flags&hasResponses != 0 {
			b = append(b, a.Response[:]...)
		}
	}
	if flags&hasTC != 0 {
		b = append(r.TC.append(b), r.TC.Last[:]...)
	}
	if flags&hasAAC != 0 {
		b = append(r.AAC.append(b), r.AAC.Last[:]...)
	}
	if flags&hasFailures != 0 {
		b = r.appendFailures(b)
	}
	if flags&hasVelocity != 0 {
		b = binary.LittleEndian.AppendUint32(b, r.Velocity.Start)
		b = binary.LittleEndian.AppendUint16(b, r.Velocity.Count)
		b = binary.LittleEndian.AppendUint64(b, r.Velocity.Amount)
	}
	if flags&hasRestriction != 0 {
		b = r.Restricted.append(b)
	}
	if flags&hasNote != 0 {
		b = binary.AppendUvarint(b, uint64(r.Note.At))
		b = appendText(appendText(b, r.Note.By), r.Note.Why)
	}
	return b
}

func (r *Record) flags() uint16 {
	f := uint16(r.Status) | uint16(len(r.Accepted))<<acceptedShift
	for _, v := range [...]struct {
		is   bool
		flag uint16
	}{
		{r.Generation != 0, hasGeneration},
		{r.Floor != 0, hasFloor},
		{r.answered(), hasResponses},
		{r.TC.Seen != 0, hasTC},
		{r.AAC.Seen != 0, hasAAC},
		{len(r.Failing)+len(r.Failed) > 0, hasFailures},
		{r.Velocity != Velocity{}, hasVelocity},
		{!r.Restricted.IsZero(), hasRestriction},
		{r.Note != Note{}, hasNote},
	} {
		if v.is {
			f |= v.flag
		}
	}
	return f
}

func (r *Record) answered() bool {
	for i := range r.Accepted {
		if r.Accepted[i].Response != [ResponseBytes]byte{} {
			return true
		}
	}
	return false
}

func (w *Window) append(b []byte) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint16(b, w.Highest), w.Seen)
}

func (r *Record) appendFailures(b []byte) []byte {
	b = append(b, byte(len(r.Failing)), byte(len(r.Failed)))
	for _, f := range r.Failing {
		b = binary.LittleEndian.AppendUint32(b, f.Caller)
		b = binary.LittleEndian.AppendUint32(append(b, f.Count), f.Last)
	}
	for i := range r.Failed {
		b = append(b, r.Failed[i][:]...)
	}
	return b
}

func (r *Restriction) append(b []byte) []byte {
	b = append(append(b, r.Device[:]...), r.Channels)
	b = binary.LittleEndian.AppendUint64(b, r.AmountCap)
	b = append(b, byte(len(r.Currencies)), byte(len(r.Categories)), byte(len(r.Merchants)), byte(len(r.Terminals)))
	for _, v := range r.Currencies {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	for _, v := range r.Categories {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	for i := range r.Merchants {
		b = append(b, r.Merchants[i][:]...)
	}
	return append(b, r.Terminals...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Decode reads what Append wrote; nothing (an empty b) is the record of a token
// that nobody has seen. On an error the record must not be used.
func (r *Record) Decode(b []byte) error {
	r.Reset()
	if len(b) == 0 {
		return nil
	}
	d := decoder{b: b}
	if d.u8() != recordVersion {
		return errRecord
	}
	flags := d.u16()
	r.Status = Status(flags & statusMask)
	r.ARQC = d.window()
	if flags&hasGeneration != 0 {
		r.Generation = d.u32()
	}
	if flags&hasFloor != 0 {
		r.Floor = d.u16()
	}
	r.decodeAccepted(&d, int(flags>>acceptedShift), flags&hasResponses != 0)
	if flags&hasTC != 0 {
		r.TC = d.advised()
	}
	if flags&hasAAC != 0 {
		r.AAC = d.advised()
	}
	if flags&hasFailures != 0 {
		r.decodeFailures(&d)
	}
	if flags&hasVelocity != 0 {
		r.Velocity = Velocity{d.u32(), d.u16(), d.u64()}
	}
	if flags&hasRestriction != 0 {
		r.Restricted = d.restriction()
	}
	if flags&hasNote != 0 {
		r.Note = Note{int64(d.uvarint()), d.text(), d.text()} //nolint:gosec // as written
	}
	// What is not exactly what Append writes of it is damage, whatever it says.
	if d.bad || len(d.b) != 0 || r.Status < Active || r.Status > Noted || r.flags() != flags {
		r.Reset()
		return errRecord
	}
	return nil
}

func (r *Record) decodeAccepted(d *decoder, n int, responses bool) {
	for range n {
		a := Accepted{ATC: d.u16()}
		d.copy(a.Digest[:])
		d.copy(a.UN[:])
		if responses {
			d.copy(a.Response[:])
		}
		r.Accepted = append(r.Accepted, a)
	}
}

func (r *Record) decodeFailures(d *decoder) {
	failing, failed := int(d.u8()), int(d.u8())
	if failing > MaxFailing || failed > MaxFailed {
		d.bad = true
		return
	}
	for range failing {
		r.Failing = append(r.Failing, Failing{d.u32(), d.u8(), d.u32()})
	}
	for range failed {
		var f Digest
		d.copy(f[:])
		r.Failed = append(r.Failed, f)
	}
}

// A decoder consumes b; after the first fault it is bad and yields zeros.
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

func (d *decoder) u8() uint8 {
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

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 || v > math.MaxInt64 || (n > 1 && d.b[n-1] == 0) {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) window() Window { return Window{d.u16(), d.u64()} }

func (d *decoder) advised() Advised {
	a := Advised{Window: d.window()}
	d.copy(a.Last[:])
	return a
}

func (d *decoder) text() string {
	n := d.uvarint()
	if n > MaxNoteText {
		d.bad = true
		return ""
	}
	return string(d.take(int(n))) //nolint:gosec // at most MaxNoteText
}

func (d *decoder) restriction() (r Restriction) {
	d.copy(r.Device[:])
	r.Channels = d.u8()
	r.AmountCap = d.u64()
	counts := [4]int{int(d.u8()), int(d.u8()), int(d.u8()), int(d.u8())}
	for _, n := range counts {
		if n > MaxListed {
			d.bad = true
			return Restriction{}
		}
	}
	for range counts[0] {
		r.Currencies = append(r.Currencies, d.u16())
	}
	for range counts[1] {
		r.Categories = append(r.Categories, d.u16())
	}
	for range counts[2] {
		var m NameHash
		d.copy(m[:])
		r.Merchants = append(r.Merchants, m)
	}
	r.Terminals = append(r.Terminals, d.take(counts[3])...)
	return r
}
