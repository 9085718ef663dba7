package cryptogram

import (
	"crypto/sha1" // Option B is defined over SHA-1; it hashes public digits
	"errors"
)

// ErrDigits is for a PAN or sequence number that is not decimal digits. It
// never carries the input.
var ErrDigits = errors.New("PAN or sequence number has a character that is not a digit")

// diversifierDigits is the length of Y in digits, EMV Book 2 annex A1.4.
const diversifierDigits = 16

// ICCMasterKeyInput is what the issuer master key enciphers into the ICC
// master key: Y ‖ ~Y, EMV Book 2 annex A1.4 as reported by pyemv, jPOS and the
// EMVCo example A.3.1. Option B differs from A only for PANs of more than 16
// digits. Any other option yields zeros: no card has that key.
func ICCMasterKeyInput(opt KeyOption, pan PAN, psn PSN) [16]byte {
	var buf [MaxPANDigits + 2]byte
	digits := append(pan.AppendDigits(buf[:0]), '0'+psn.bcd>>4, '0'+psn.bcd&0xF)
	y, ok := diversifier(opt, pan.Len(), digits)
	if !ok {
		return [16]byte{}
	}
	return WithInverse(y)
}

// Diversifier is Y for a PAN of any length, as decimal digits: for
// conformance files, whose PANs need not be PANs.
func Diversifier(opt KeyOption, pan, psn string) (y [8]byte, err error) {
	digits := []byte(pan + psn)
	for _, c := range digits {
		if c < '0' || c > '9' {
			return y, ErrDigits
		}
	}
	y, ok := diversifier(opt, len(pan), digits)
	if !ok {
		return y, ErrKeyOption
	}
	return y, nil
}

// diversifier computes Y from the ASCII digits PAN ‖ PSN.
func diversifier(opt KeyOption, panDigits int, digits []byte) (y [8]byte, ok bool) {
	switch {
	case opt == OptionA, opt == OptionB && panDigits <= diversifierDigits:
		return OptionADigits(digits), true
	case opt == OptionB:
		return DecimaliseHash(optionBHash(digits)), true
	}
	return y, false
}

// OptionADigits packs the rightmost 16 of the ASCII digits PAN ‖ PSN, with
// zeros in front if there are fewer.
func OptionADigits(digits []byte) (y [8]byte) {
	if extra := len(digits) - diversifierDigits; extra > 0 {
		digits = digits[extra:]
	}
	packDigits(y[:], digits)
	return y
}

// OptionBHashInput is what Option B hashes, as packed digits: PAN ‖ PSN, with
// one zero in front if their number is odd.
func OptionBHashInput(digits []byte) []byte {
	b := make([]byte, (len(digits)+1)/2)
	packDigits(b, digits)
	return b
}

// optionBHash is the SHA-1 over OptionBHashInput, without a heap buffer for
// PANs of the usual length.
func optionBHash(digits []byte) [sha1.Size]byte {
	var buf [(MaxPANDigits + 3) / 2]byte
	n := (len(digits) + 1) / 2
	if n > len(buf) {
		return sha1.Sum(OptionBHashInput(digits)) // see the import
	}
	packDigits(buf[:n], digits)
	return sha1.Sum(buf[:n]) // see the import
}

// packDigits packs ASCII digits into b, right-aligned; digits fit.
func packDigits(b, digits []byte) {
	clear(b)
	shift := 2*len(b) - len(digits)
	for i, c := range digits {
		pos := shift + i
		b[pos/2] |= (c - '0') << (4 * (1 - pos%2))
	}
}

// DecimaliseHash takes 16 digits from the 40 hexadecimal digits of an Option B
// hash: the decimal ones from left to right, then, if they are fewer than 16,
// A…F from left to right as 0…5.
func DecimaliseHash(hash [sha1.Size]byte) (y [8]byte) {
	n := 0
	for _, letters := range [...]bool{false, true} {
		for i := 0; i < 2*len(hash) && n < diversifierDigits; i++ {
			d := nibble(hash[:], i)
			if (d > 9) != letters {
				continue
			}
			y[n/2] |= d % 10 << (4 * (1 - n%2)) // A is 10, so A…F become 0…5
			n++
		}
	}
	return y
}

// WithInverse is y ‖ ~y.
func WithInverse(y [8]byte) (in [16]byte) {
	for i, b := range y {
		in[i], in[8+i] = b, ^b
	}
	return in
}

// SessionKeyInput is what the ICC master key enciphers into the session key
// for an application cryptogram. It is not derived if the method uses the ICC
// master key itself, or is unknown.
func SessionKeyInput(m SessionKeyMethod, atc [2]byte, un [4]byte) (in [16]byte, derived bool) {
	switch m {
	case SessionKeyEMVCommon:
		return CommonSessionKeyInput([8]byte{atc[0], atc[1]}), true
	case SessionKeyMastercard:
		return CommonSessionKeyInput([8]byte{atc[0], atc[1], 0, 0, un[0], un[1], un[2], un[3]}), true
	case SessionKeyPBOC:
		return PBOCSessionKeyInput(atc), true
	}
	return in, false
}

// CommonSessionKeyInput is the input of the EMV common session key derivation
// for 8-byte keys, EMV Book 2 annex A1.3 as reported by pyemv and the EMVCo
// example A.3.2: r twice, with byte 3 replaced by F0 and 0F.
func CommonSessionKeyInput(r [8]byte) (in [16]byte) {
	copy(in[:8], r[:])
	copy(in[8:], r[:])
	in[2], in[10] = 0xF0, 0x0F
	return in
}

// PBOCSessionKeyInput is the input of the PBOC process key, as reported by
// CSDN freud_lv/24518351: 0^6 ‖ ATC ‖ 0^6 ‖ ~ATC.
func PBOCSessionKeyInput(atc [2]byte) (in [16]byte) {
	in[6], in[7] = atc[0], atc[1]
	in[14], in[15] = ^atc[0], ^atc[1]
	return in
}

// LeftTwin is the input that derives KL‖KL where in derives KL‖KR: the left
// half of a MAC algorithm 3 key as a key of its own.
func LeftTwin(in [16]byte) (twin [16]byte) {
	copy(twin[:8], in[:8])
	copy(twin[8:], in[:8])
	return twin
}
