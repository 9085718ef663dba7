package phone

import (
	"crypto/des"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"math/bits"
	"strings"
)

// blockBytes is the DES block.
const blockBytes = 8

// key is a two-key triple-DES key, K1 ‖ K2.
type key [16]byte

// encipher is two-key triple DES of one block.
func (k key) encipher(block [blockBytes]byte) [blockBytes]byte {
	var three [24]byte
	copy(three[:], k[:])
	copy(three[16:], k[:blockBytes])
	c, err := des.NewTripleDESCipher(three[:])
	if err != nil {
		panic(err) // only a wrong key length, which the type excludes
	}
	c.Encrypt(block[:], block[:])
	return block
}

// pair makes a key from two enciphered blocks, the form of every derivation
// that a card does.
func (k key) pair(left, right [blockBytes]byte) key {
	var out key
	l, r := k.encipher(left), k.encipher(right)
	copy(out[:blockBytes], l[:])
	copy(out[blockBytes:], r[:])
	return out
}

// oddParity sets the lowest bit of each byte. It changes no cryptogram; cards
// are personalised with adjusted keys, so the stored ones look like theirs.
func (k key) oddParity() key {
	for i, b := range k {
		k[i] = b&0xFE | byte(1-bits.OnesCount8(b&0xFE)%2)
	}
	return k
}

// retailMAC is ISO/IEC 9797-1 MAC algorithm 3 with DES over whole blocks:
// single DES in CBC mode with K1, and on the last block K2 backwards and K1.
func (k key) retailMAC(padded []byte) [blockBytes]byte {
	first, err := des.NewCipher(k[:blockBytes])
	if err != nil {
		panic(err) // as in encipher
	}
	second, err := des.NewCipher(k[blockBytes:])
	if err != nil {
		panic(err)
	}
	var state [blockBytes]byte
	for len(padded) >= blockBytes {
		for i := range state {
			state[i] ^= padded[i]
		}
		first.Encrypt(state[:], state[:])
		padded = padded[blockBytes:]
	}
	second.Decrypt(state[:], state[:])
	first.Encrypt(state[:], state[:])
	return state
}

// padZeros is ISO/IEC 9797-1 padding method 1.
func padZeros(b []byte) []byte {
	for len(b) == 0 || len(b)%blockBytes != 0 {
		b = append(b, 0)
	}
	return b
}

// padMarked is ISO/IEC 9797-1 padding method 2.
func padMarked(b []byte) []byte { return padZeros(append(b, 0x80)) }

var errDigits = errors.New("PAN and sequence number must be decimal digits")

// masterKeyOptionA derives the ICC master key by EMV Book 2 annex A1.4.1, as
// reported by pyemv and the EMVCo example A.3.1: the rightmost 16 digits of
// PAN ‖ PSN, enciphered, then the complement of them.
func masterKeyOptionA(issuer key, pan, psn string) (key, error) {
	digits := pan + psn
	if len(digits) < 16 {
		digits = strings.Repeat("0", 16-len(digits)) + digits
	}
	return masterKey(issuer, digits[len(digits)-16:])
}

// masterKeyOptionB derives the ICC master key by EMV Book 2 annex A1.4.2, as
// reported by pyemv and CryptoCarver: for more than 16 PAN digits, sixteen
// decimal digits out of the SHA-1 of PAN ‖ PSN.
func masterKeyOptionB(issuer key, pan, psn string) (key, error) {
	if len(pan) <= 16 {
		return masterKeyOptionA(issuer, pan, psn)
	}
	digits := pan + psn
	if len(digits)%2 != 0 {
		digits = "0" + digits
	}
	bcd, err := hex.DecodeString(digits)
	if err != nil {
		return key{}, errDigits
	}
	hash := sha1.Sum(bcd)
	return masterKey(issuer, decimalise(hex.EncodeToString(hash[:])))
}

// decimalise takes sixteen decimal digits from left to right and, where there
// are fewer, fills up with the letters a to f as 0 to 5.
func decimalise(hexadecimal string) string {
	var digits, letters []byte
	for i := range len(hexadecimal) {
		if c := hexadecimal[i]; c <= '9' {
			digits = append(digits, c)
		} else {
			letters = append(letters, c-'a'+'0')
		}
	}
	return string(append(digits, letters...)[:16])
}

func masterKey(issuer key, digits string) (key, error) {
	for i := range len(digits) {
		if digits[i] < '0' || digits[i] > '9' {
			return key{}, errDigits
		}
	}
	var y, complement [blockBytes]byte
	if _, err := hex.Decode(y[:], []byte(digits)); err != nil {
		return key{}, errDigits
	}
	for i, b := range y {
		complement[i] = ^b
	}
	return issuer.pair(y, complement).oddParity(), nil
}

// commonSessionKey is the EMV common session key: the third byte of R is F0 in the
// left and 0F in the right half.
func commonSessionKey(card key, r [blockBytes]byte) key {
	left, right := r, r
	left[2], right[2] = 0xF0, 0x0F
	return card.pair(left, right)
}

// pbocProcessKey is the PBOC process key: the counter, then its complement,
// right-aligned.
func pbocProcessKey(card key, atc uint16) key {
	hi, lo := byte(atc>>8), byte(atc)
	return card.pair(
		[blockBytes]byte{6: hi, 7: lo},
		[blockBytes]byte{6: ^hi, 7: ^lo},
	)
}
