package cryptogram_test

// A second, slow implementation of the formulas, written from their
// description and sharing nothing with the package: what both agree on is not
// a slip of one of them.

import (
	"crypto/des"  // as in the package
	"crypto/sha1" // as in the package
	"encoding/hex"
	"strings"
)

func naiveDES3(key, block []byte) []byte {
	k := append(append([]byte{}, key...), key[:8]...)
	c, err := des.NewTripleDESCipher(k)
	if err != nil {
		panic(err)
	}
	out := make([]byte, 8)
	c.Encrypt(out, block)
	return out
}

func naiveDerive(key, in []byte) []byte {
	return append(naiveDES3(key, in[:8]), naiveDES3(key, in[8:])...)
}

// naiveY is the diversification block of option "A" or "B".
func naiveY(option, pan, psn string) []byte {
	digits := pan + psn
	if option == "B" && len(pan) > 16 {
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		raw, err := hex.DecodeString(digits)
		if err != nil {
			panic(err)
		}
		sum := sha1.Sum(raw)
		text := hex.EncodeToString(sum[:])
		decimal, letters := "", ""
		for _, r := range text {
			if strings.ContainsRune("0123456789", r) {
				decimal += string(r)
			} else {
				letters += string('0' + (r - 'a'))
			}
		}
		digits = (decimal + letters)[:16]
	}
	digits = strings.Repeat("0", 16) + digits
	y, err := hex.DecodeString(digits[len(digits)-16:])
	if err != nil {
		panic(err)
	}
	return y
}

func naiveInverse(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ 0xFF
	}
	return out
}

func naiveICCMasterKey(imk []byte, option, pan, psn string) []byte {
	y := naiveY(option, pan, psn)
	return append(naiveDES3(imk, y), naiveDES3(imk, naiveInverse(y))...)
}

// naiveSessionKey takes the skd names of the vector files.
func naiveSessionKey(mk []byte, skd string, atc, un []byte) []byte {
	var left, right []byte
	switch skd {
	case "none":
		return mk
	case "csk":
		left = []byte{atc[0], atc[1], 0xF0, 0, 0, 0, 0, 0}
		right = []byte{atc[0], atc[1], 0x0F, 0, 0, 0, 0, 0}
	case "mc_skd":
		left = []byte{atc[0], atc[1], 0xF0, 0, un[0], un[1], un[2], un[3]}
		right = []byte{atc[0], atc[1], 0x0F, 0, un[0], un[1], un[2], un[3]}
	case "pboc":
		left = []byte{0, 0, 0, 0, 0, 0, atc[0], atc[1]}
		right = []byte{0, 0, 0, 0, 0, 0, ^atc[0], ^atc[1]}
	default:
		panic("skd " + skd)
	}
	return append(naiveDES3(mk, left), naiveDES3(mk, right)...)
}

// naivePad takes the padding names of the vector files.
func naivePad(data []byte, padding string) []byte {
	out := append([]byte{}, data...)
	if padding == "iso9797_m2" {
		out = append(out, 0x80)
	}
	for len(out) == 0 || len(out)%8 != 0 {
		out = append(out, 0)
	}
	return out
}

// naiveRetailMAC is ISO/IEC 9797-1 algorithm 3 as the standard words it:
// single-DES CBC with K1 over everything, then decrypt with K2, encrypt with K1.
func naiveRetailMAC(key, padded []byte) []byte {
	k1, err := des.NewCipher(key[:8])
	if err != nil {
		panic(err)
	}
	k2, err := des.NewCipher(key[8:])
	if err != nil {
		panic(err)
	}
	h := make([]byte, 8)
	for ; len(padded) > 0; padded = padded[8:] {
		for i := range h {
			h[i] ^= padded[i]
		}
		k1.Encrypt(h, h)
	}
	k2.Decrypt(h, h)
	k1.Encrypt(h, h)
	return h
}
