package conformance

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // Option B is defined over SHA-1; it hashes public digits
	"encoding/hex"

	"github.com/tapseal/tapseal/cryptogram"
)

// optionBDigits is the PAN length above which option B differs from option A
// (EMV Book 2 annex A1.4, as reported by the sources in docs/schemes.md).
const optionBDigits = 16

// diversification is the 8-byte block Y from which the card key is derived: as
// given, or from PAN and sequence number. Both are allowed if they agree.
func (v *vector) diversification() ([8]byte, error) {
	var y [8]byte
	if v.in.has("mkd") {
		if _, err := v.in.oneOf("mkd", "A", "B"); err != nil {
			return y, err
		}
	}
	if v.in.has("y") {
		if err := v.in.fixed("y", y[:]); err != nil {
			return y, err
		}
		if !v.in.has("pan") {
			return y, nil
		}
	}
	d, err := v.readDigits()
	if err != nil {
		return y, err
	}
	if v.in.has("y") && !bytes.Equal(y[:], d.y[:]) {
		return y, badField("y", "not the one that pan, psn and mkd give")
	}
	return d.y, nil
}

// A division is what option A or B makes of PAN and sequence number.
type division struct {
	y      [8]byte
	hashed bool // option B: hash is set, and digits unless the hash was given
	digits string
	hash   [sha1.Size]byte
}

// readDigits reads pan, psn and mkd. PANs of any length are derived, because
// published examples have them; a request to the product has 12 to 19 digits.
func (v *vector) readDigits() (division, error) {
	pan, err := v.in.digits("pan")
	if err != nil {
		return division{}, err
	}
	psn := "00" // a card without one is derived with 00
	if v.in.has("psn") {
		if psn, err = v.in.digits("psn"); err != nil {
			return division{}, err
		}
		if len(psn) != 2 {
			return division{}, badField("psn", "want 2 digits, got %d", len(psn))
		}
	}
	mkd, err := v.in.oneOf("mkd", "A", "B")
	if err != nil {
		return division{}, err
	}
	anyLength := false
	if v.in.has("option_b_any_length") {
		if anyLength, err = v.in.truth("option_b_any_length"); err != nil {
			return division{}, err
		}
	}
	return divide(pan, psn, mkd == "B", anyLength), nil
}

func divide(pan, psn string, optionB, anyLength bool) division {
	digits := []byte(pan + psn)
	if !optionB || (len(pan) <= optionBDigits && !anyLength) {
		return division{y: cryptogram.OptionADigits(digits)}
	}
	packed := cryptogram.OptionBHashInput(digits)
	hash := sha1.Sum(packed) //nolint:gosec // see the import
	return division{
		y: cryptogram.DecimaliseHash(hash), hashed: true,
		digits: hex.EncodeToString(packed), hash: hash,
	}
}
