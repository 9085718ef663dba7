package frame

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// magic is the payload of a Hello frame.
const magic = "TAPSEAL\x02"

// Payload lengths in bytes.
const (
	welcomeBytes = EpochBytes + 4
	healthBytes  = 8
	healthyBytes = 8 + 4
)

// AppendHello appends a Hello frame.
func AppendHello(b []byte) []byte {
	b, start := Begin(b)
	b = append(b, magic...)
	End(b, start, TypeHello, 0)
	return b
}

// DecodeHello checks the payload of a Hello frame.
func DecodeHello(b []byte) error {
	if string(b) != magic {
		return fmt.Errorf("%w: hello", ErrFrame)
	}
	return nil
}

// Welcome opens the worker's side of a connection.
type Welcome struct {
	Epoch [EpochBytes]byte // random for each worker process
	Keys  uint32           // entries in the KeyTable frames that follow, at most MaxKeys
}

// AppendWelcome appends a Welcome frame.
func AppendWelcome(b []byte, w *Welcome) []byte {
	b, start := Begin(b)
	b = append(b, w.Epoch[:]...)
	b = binary.LittleEndian.AppendUint32(b, w.Keys)
	End(b, start, TypeWelcome, 0)
	return b
}

// DecodeWelcome reads the payload of a Welcome frame.
func DecodeWelcome(b []byte) (Welcome, error) {
	var w Welcome
	d := decoder{b: b}
	d.copy(w.Epoch[:])
	w.Keys = d.u32()
	if d.bad || len(d.b) != 0 {
		return Welcome{}, fmt.Errorf("%w: welcome", ErrFrame)
	}
	if w.Keys > MaxKeys {
		return Welcome{}, fmt.Errorf("%w: %d keys", ErrTooBig, w.Keys)
	}
	return w, nil
}

// KeyEntry describes one key that the worker serves: no secret, no handle.
type KeyEntry struct {
	ID       keys.ID
	Set      string // at most 255 bytes: more are cut off, and the name matches nothing
	Version  uint32
	State    keys.State
	Use      keys.Use
	Profiles []cryptogram.ProfileID // at most 255: more are not served
}

// Sizes of key table entries.
const (
	minKeyEntryBytes = keys.IDBytes + 1 + 4 + 1 + 1 + 1
	maxKeyEntryBytes = minKeyEntryBytes + 255 + 2*255
	// keyTableEntries bounds one KeyTable frame below MaxPayloadBytes:
	// 64 × 789 = 50,496.
	keyTableEntries = 64
)

// AppendKeyTable appends the KeyTable frames for all entries.
func AppendKeyTable(b []byte, entries []KeyEntry) []byte {
	for len(entries) > 0 {
		chunk := entries[:min(keyTableEntries, len(entries))]
		entries = entries[len(chunk):]
		var start int
		b, start = Begin(b)
		for i := range chunk {
			b = appendKeyEntry(b, &chunk[i])
		}
		End(b, start, TypeKeyTable, len(chunk))
	}
	return b
}

func appendKeyEntry(b []byte, e *KeyEntry) []byte {
	b = append(b, e.ID[:]...)
	set := e.Set[:min(len(e.Set), 255)]
	b = append(b, byte(len(set)))
	b = append(b, set...)
	b = binary.LittleEndian.AppendUint32(b, e.Version)
	profiles := e.Profiles[:min(len(e.Profiles), 255)]
	b = append(b, byte(e.State), byte(e.Use), byte(len(profiles)))
	for _, p := range profiles {
		b = binary.LittleEndian.AppendUint16(b, uint16(p))
	}
	return b
}

// DecodeKeyTable appends the count entries of one KeyTable payload to dst. What
// it allocates is bounded by a small multiple of len(b), whatever count says.
func DecodeKeyTable(b []byte, count int, dst []KeyEntry) ([]KeyEntry, error) {
	if count < 0 || count > len(b)/minKeyEntryBytes {
		return nil, fmt.Errorf("%w: key table", ErrFrame)
	}
	dst = slices.Grow(dst, count)
	d := decoder{b: b}
	for range count {
		var e KeyEntry
		d.keyEntry(&e)
		if d.bad {
			return nil, fmt.Errorf("%w: key table", ErrFrame)
		}
		dst = append(dst, e)
	}
	if len(d.b) != 0 {
		return nil, fmt.Errorf("%w: key table", ErrFrame)
	}
	return dst, nil
}

func (d *decoder) keyEntry(e *KeyEntry) {
	d.copy(e.ID[:])
	e.Set = string(d.take(int(d.u8())))
	e.Version = d.u32()
	e.State = keys.State(d.u8())
	e.Use = keys.Use(d.u8())
	profiles := d.take(2 * int(d.u8()))
	if len(profiles) == 0 {
		return
	}
	e.Profiles = make([]cryptogram.ProfileID, len(profiles)/2)
	for i := range e.Profiles {
		e.Profiles[i] = cryptogram.ProfileID(binary.LittleEndian.Uint16(profiles[2*i:]))
	}
}

// AppendHealth appends a Health frame: the worker runs a canary in the token
// and answers with a Healthy frame.
func AppendHealth(b []byte, id uint64) []byte {
	b, start := Begin(b)
	b = binary.LittleEndian.AppendUint64(b, id)
	End(b, start, TypeHealth, 0)
	return b
}

// DecodeHealth reads the payload of a Health frame.
func DecodeHealth(b []byte) (uint64, error) {
	if len(b) != healthBytes {
		return 0, fmt.Errorf("%w: health", ErrFrame)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// AppendHealthy appends a Healthy frame. StatusMatched means that the canary
// came out right; anything else that it did not.
func AppendHealthy(b []byte, id uint64, s Status) []byte {
	b, start := Begin(b)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = binary.LittleEndian.AppendUint32(b, uint32(s))
	End(b, start, TypeHealthy, 0)
	return b
}

// DecodeHealthy reads the payload of a Healthy frame.
func DecodeHealthy(b []byte) (uint64, Status, error) {
	if len(b) != healthyBytes {
		return 0, 0, fmt.Errorf("%w: healthy", ErrFrame)
	}
	s := Status(binary.LittleEndian.Uint32(b[8:]))
	if !s.known() {
		return 0, 0, fmt.Errorf("%w: healthy", ErrFrame)
	}
	return binary.LittleEndian.Uint64(b), s, nil
}

// AppendGoAway appends a GoAway frame.
func AppendGoAway(b []byte) []byte {
	b, start := Begin(b)
	End(b, start, TypeGoAway, 0)
	return b
}
