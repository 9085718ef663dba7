package conformance

import (
	"crypto/cipher"
	"crypto/des" //nolint:gosec // the schemes are DES based
	"crypto/sha1"
	"crypto/subtle"
	"math/big"
	"strings"
	"testing"
)

// The formulas of docs/schemes.md once more, in the plainest way and from no
// code of ours: strings of digits, one function for each formula. Where the
// product and this file agree, an error would have to be in both readings.

// refScheme is one row of the table in docs/schemes.md, by profile name.
type refScheme struct {
	sessionKey string // "", "csk", "skd", "pboc"
	appended   string // "cvr", "cvr+counters", "iad"
	padding2   bool
	response2  bool
	cardKey    bool // the ARPC is made under the card key
}

func refSchemes() map[string]refScheme {
	return map[string]refScheme{
		"visa-cvn10":       {"", "cvr", false, false, true},
		"visa-cvn18":       {"csk", "iad", true, true, false},
		"visa-cvn22":       {"csk", "iad", true, true, false},
		"mastercard-cvn16": {"skd", "cvr", true, false, true},
		"mastercard-cvn17": {"skd", "cvr+counters", true, false, true},
		"mastercard-cvn20": {"csk", "cvr", true, false, false},
		"mastercard-cvn21": {"csk", "cvr+counters", true, false, false},
		"interac-cvn133":   {"skd", "iad", true, false, false},
		"emv-ccd":          {"csk", "iad", true, true, false},
		"pboc-tdes":        {"pboc", "cvr", true, false, false},
	}
}

func refDES(t testing.TB, key []byte) cipher.Block {
	t.Helper()
	c, err := des.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ref3DES is E(K1) D(K2) E(K1) out of single DES.
func ref3DES(t testing.TB, key, block []byte) []byte {
	t.Helper()
	out := make([]byte, 8)
	k1, k2 := refDES(t, key[:8]), refDES(t, key[8:])
	k1.Encrypt(out, block)
	k2.Decrypt(out, out)
	k1.Encrypt(out, out)
	return out
}

func refDerive(t testing.TB, key []byte, left, right []byte) []byte {
	t.Helper()
	return append(ref3DES(t, key, left), ref3DES(t, key, right)...)
}

func refNot(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = ^b[i]
	}
	return out
}

// refPack turns decimal or hexadecimal digits into bytes through one number.
func refPack(t testing.TB, digits string, bytes int) []byte {
	t.Helper()
	n, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		t.Fatal("not digits")
	}
	return n.FillBytes(make([]byte, bytes))
}

func refCardKey(t testing.TB, imk []byte, pan, psn string, optionB bool) []byte {
	t.Helper()
	digits := pan + psn
	if optionB && len(pan) > 16 {
		hash := sha1.Sum(refPack(t, digits, (len(digits)+1)/2))
		text := upperHex(hash[:])
		decimal := func(r rune) rune { return keep(r, r <= '9') }
		letter := func(r rune) rune { return keep(r, r > '9') }
		first := strings.Map(decimal, text)
		second := strings.NewReplacer("A", "0", "B", "1", "C", "2", "D", "3", "E", "4", "F", "5").
			Replace(strings.Map(letter, text))
		digits = (first + second)[:16]
	} else {
		digits = strings.Repeat("0", 16) + digits
		digits = digits[len(digits)-16:]
	}
	y := refPack(t, digits, 8)
	return refDerive(t, imk, y, refNot(y))
}

// keep is for strings.Map.
func keep(r rune, yes bool) rune {
	if yes {
		return r
	}
	return -1
}

func refSessionKey(t testing.TB, mk []byte, method string, atc, un []byte) []byte {
	t.Helper()
	r := make([]byte, 8)
	switch method {
	case "":
		return mk
	case "pboc":
		copy(r[6:], atc)
		other := make([]byte, 8)
		copy(other[6:], refNot(atc))
		return refDerive(t, mk, r, other)
	case "skd":
		copy(r[4:], un)
	}
	copy(r, atc)
	left, right := append([]byte{}, r...), append([]byte{}, r...)
	left[2], right[2] = 0xF0, 0x0F
	return refDerive(t, mk, left, right)
}

// refMAC is ISO 9797-1 algorithm 3: CBC under K1 over everything, then D(K2)
// and E(K1) of the result.
func refMAC(t testing.TB, key, message []byte, padding2 bool) []byte {
	t.Helper()
	padded := append([]byte{}, message...)
	if padding2 {
		padded = append(padded, 0x80)
	}
	for len(padded)%8 != 0 {
		padded = append(padded, 0)
	}
	k1, k2 := refDES(t, key[:8]), refDES(t, key[8:])
	cipher.NewCBCEncrypter(k1, make([]byte, 8)).CryptBlocks(padded, padded)
	mac := padded[len(padded)-8:]
	k2.Decrypt(mac, mac)
	k1.Encrypt(mac, mac)
	return mac
}

// refResponse1 is ARPC method 1.
func refResponse1(t testing.TB, key, arqc, arc []byte) []byte {
	t.Helper()
	block := make([]byte, 8)
	subtle.XORBytes(block, arqc, append(append([]byte{}, arc...), make([]byte, 6)...))
	return ref3DES(t, key, block)
}
