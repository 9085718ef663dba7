package frame

import (
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

// magic starts a Hello payload.
const magic = "TAPSEAL\x01"

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
	Keys  uint32           // entries in the KeyTable frames that follow
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
	return w, nil
}

// KeyEntry describes one key that the worker serves: no secret, no handle.
type KeyEntry struct {
	ID       keys.ID
	Set      string // at most 255 bytes
	Version  uint32
	State    keys.State
	Profiles []cryptogram.ProfileID // at most 255
}

// keyTableEntries bounds one KeyTable frame below MaxPayloadBytes:
// 64 × (16 + 256 + 4 + 1 + 1 + 510) = 50,432.
const keyTableEntries = 64

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
	b = append(b, byte(len(e.Set)))
	b = append(b, e.Set...)
	b = binary.LittleEndian.AppendUint32(b, e.Version)
	b = append(b, byte(e.State), byte(len(e.Profiles)))
	for _, p := range e.Profiles {
		b = binary.LittleEndian.AppendUint16(b, uint16(p))
	}
	return b
}

// DecodeKeyTable appends the count entries of one KeyTable payload to dst.
func DecodeKeyTable(b []byte, count int, dst []KeyEntry) ([]KeyEntry, error) {
	d := decoder{b: b}
	for range count {
		var e KeyEntry
		d.copy(e.ID[:])
		e.Set = string(d.take(int(d.u8())))
		e.Version = d.u32()
		e.State = keys.State(d.u8())
		for range d.u8() {
			e.Profiles = append(e.Profiles, cryptogram.ProfileID(d.u16()))
		}
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
	if len(b) != 8 {
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
	if len(b) != 12 {
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
