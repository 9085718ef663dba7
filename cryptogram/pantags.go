package cryptogram

import "fmt"

// Longest encodings of a PAN in its tags, bytes.
const (
	maxTagPANBytes = (MaxPANDigits + 1) / 2
	maxTrack2Bytes = 19
)

// panFromTag reads the value of tag 5A: compressed numeric, digits from the
// left, filled up with F on the right (EMV Book 3 clause 4.3).
func panFromTag(v []byte) (PAN, string) {
	if len(v) == 0 || len(v) > maxTagPANBytes {
		return PAN{}, fmt.Sprintf("want 1 to %d bytes, got %d", maxTagPANBytes, len(v))
	}
	n := leadingDigits(v)
	for i := n; i < 2*len(v); i++ {
		if nibble(v, i) != 0xF {
			return PAN{}, "not decimal digits filled up with F"
		}
	}
	return panFromNibbles(v, n)
}

// panFromTrack2 reads the PAN of tag 57, up to the separator D. What follows
// (expiry, service code, discretionary data) is not part of any cryptogram and
// is not read.
func panFromTrack2(v []byte) (PAN, string) {
	if len(v) == 0 || len(v) > maxTrack2Bytes {
		return PAN{}, fmt.Sprintf("want 1 to %d bytes, got %d", maxTrack2Bytes, len(v))
	}
	n := leadingDigits(v)
	if n == 2*len(v) || nibble(v, n) != 0xD {
		return PAN{}, "no separator after the PAN"
	}
	return panFromNibbles(v, n)
}

func nibble(v []byte, i int) byte { return v[i/2] >> (4 * (1 - i%2)) & 0xF }

func leadingDigits(v []byte) int {
	n := 0
	for n < 2*len(v) && nibble(v, n) <= 9 {
		n++
	}
	return n
}

// panFromNibbles reads the n digits at the front of v.
func panFromNibbles(v []byte, n int) (PAN, string) {
	if n < MinPANDigits || n > MaxPANDigits {
		return PAN{}, "PAN must have 12 to 19 digits"
	}
	p := PAN{n: uint8(n)}
	for i := range n {
		p.digits[i] = '0' + nibble(v, i)
	}
	return p, ""
}
