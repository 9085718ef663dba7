package cryptogram

import "fmt"

// An object is one BER-TLV data object. The value is a part of the input.
type object struct {
	tag   Tag
	value []byte
}

// nextObject reads the object at b[at:] and returns where the next one starts.
//
// It is stricter than BER, because every freedom is a second encoding of the
// same data: tags of one or two bytes with EMV's numbers, definite lengths in
// the shortest form, no filler bytes (ISO/IEC 7816-4 allows 00 and FF between
// objects in card files, but field 55 has a length of its own and nothing to
// fill), and no constructed objects: field 55 of a request is a flat list, and
// a template could hide a second copy of an authenticated element.
func nextObject(b []byte, at int) (object, int, error) {
	tag, n, problem := readTag(b[at:])
	if problem != "" {
		return object{}, 0, objectError(tag, at, problem)
	}
	pos := at + n
	length, n, problem := readLength(b[pos:])
	if problem != "" {
		return object{}, 0, objectError(tag, at, problem)
	}
	pos += n
	if length > len(b)-pos {
		return object{}, 0, objectError(tag, at, "value is cut short")
	}
	return object{tag, b[pos : pos+length]}, pos + length, nil
}

func readTag(b []byte) (tag Tag, n int, problem string) {
	first := b[0]
	switch {
	case first == 0x00 || first == 0xFF:
		return 0, 0, "filler byte between data objects"
	case first&0x20 != 0:
		return 0, 0, "constructed data object, want a flat list"
	case first&0x1F != 0x1F:
		return Tag(first), 1, ""
	case len(b) < 2:
		return 0, 0, "tag is cut short"
	case b[1]&0x80 != 0:
		return 0, 0, "tag has more than two bytes"
	case b[1] == 0:
		return 0, 0, "tag number zero in two bytes"
	}
	return Tag(first)<<8 | Tag(b[1]), 2, ""
}

// readLength reads a length field, ISO/IEC 8825-1 clause 8.1.3. Two length
// bytes are enough for MaxField55Bytes.
func readLength(b []byte) (length, n int, problem string) {
	switch {
	case len(b) == 0:
		return 0, 0, "length is missing"
	case b[0] < 0x80:
		return int(b[0]), 1, ""
	case b[0] == 0x80:
		return 0, 0, "indefinite length"
	case b[0] > 0x82:
		return 0, 0, "length field is too long"
	case len(b) < 1+int(b[0]&0x7F):
		return 0, 0, "length is cut short"
	}
	if b[0] == 0x81 {
		length, n = int(b[1]), 2
		if length < 0x80 {
			return 0, 0, "length is not in its shortest form"
		}
		return length, n, ""
	}
	length, n = int(b[1])<<8|int(b[2]), 3
	if length < 0x100 {
		return 0, 0, "length is not in its shortest form"
	}
	return length, n, ""
}

// objectError names the tag only if EMV defines it, else the position.
func objectError(t Tag, at int, problem string) error {
	if definedByEMV(t) {
		return TagError{t, problem}
	}
	return TagError{0, fmt.Sprintf("object at byte %d: %s", at, problem)}
}

// tagSet remembers which tags were seen. nextObject yields no constructed and
// no three-byte tags, so 256 one-byte tags and 4 classes × 128 two-byte tags
// are all there are: a repeated tag is found without an allocation or a search.
type tagSet struct {
	one [256 / 64]uint64
	two [512 / 64]uint64
}

// add reports whether t is new.
func (s *tagSet) add(t Tag) bool {
	word, bit := &s.one[t&0xFF/64], uint(t%64)
	if t > 0xFF {
		i := t>>14<<7 | t&0x7F // class ‖ second byte
		word, bit = &s.two[i/64], uint(i%64)
	}
	seen := *word&(1<<bit) != 0
	*word |= 1 << bit
	return !seen
}
