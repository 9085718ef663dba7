// Package phone plays the cardholder's phone at a terminal: it holds card
// keys in software, as phones do, and makes application cryptograms with them.
// Nothing in it comes from the verifier: derivations, message builder, MAC and
// TLV writer are written a second time, because a tap made by the verifier's
// own code would prove only its arithmetic.
package phone

import (
	"encoding/hex"
	"fmt"
	"time"
)

// A Card is one demo token: an account number and the ICC master key that an
// issuer put on it. The key is a secret as every card key is: a Card is
// printed without it.
type Card struct {
	Profile string // name of the profile, see Profiles
	PAN     string // decimal digits
	PSN     string // two decimal digits
	ATC     uint16 // counter of the last tap, 0 before the first
	master  key
}

// Provision makes a card under an issuer master key, as a personalisation
// bureau does: ICC master key by option A.
func Provision(issuer [16]byte, profile, pan, psn string) (Card, error) {
	if _, ok := personalities()[profile]; !ok {
		return Card{}, fmt.Errorf("provisioning a card: no profile %q", profile)
	}
	if len(psn) != 2 || !decimal(psn) || !decimal(pan) {
		return Card{}, fmt.Errorf("provisioning a card: %w", errDigits)
	}
	master, err := masterKeyOptionA(issuer, pan, psn)
	if err != nil {
		return Card{}, fmt.Errorf("provisioning a card: %w", err)
	}
	return Card{Profile: profile, PAN: pan, PSN: psn, master: master}, nil
}

// String tells the profile only.
func (c Card) String() string { return "card(" + c.Profile + ")" }

// GoString tells the profile only.
func (c Card) GoString() string { return c.String() }

// Terminal is what the point of sale contributes to a transaction.
type Terminal struct {
	AmountMinor uint64    // 9F02, minor units of the currency, at most 12 digits
	Currency    uint16    // 5F2A, ISO 4217 numeric, for example 978
	Country     uint16    // 9F1A, ISO 3166-1 numeric
	Time        time.Time // 9A
	UN          [4]byte   // 9F37, unpredictable number
}

// A Tap is what the acquirer gets from one transaction.
type Tap struct {
	Field55 []byte // BER-TLV
	ATC     uint16
	CVR     []byte // only where the profile's IAD does not tell it
}

// transaction holds the data elements of a tap in the encoding of their tags.
type transaction struct {
	amount, other, country, tvr, currency, date, kind, un, aip, atc, iad []byte
}

// Use makes the cryptogram for one transaction with the given counter.
func (c Card) Use(atc uint16, t Terminal) (Tap, error) {
	p, ok := personalities()[c.Profile]
	if !ok {
		return Tap{}, fmt.Errorf("no profile %q", c.Profile)
	}
	x, err := t.transaction()
	if err != nil {
		return Tap{}, err
	}
	x.atc = []byte{byte(atc >> 8), byte(atc)}
	x.iad = unhex(p.iad)
	cvr := unhex(p.cvr)
	cryptogram := c.cryptogram(p, x, cvr, atc)
	return Tap{Field55: x.field55(p, c.PSN, cryptogram[:]), ATC: atc, CVR: cvr}, nil
}

// cryptogram is the ARQC: algorithm 3 over the common data in the order of the
// schemes' lists, and what the profile appends.
func (c Card) cryptogram(p personality, x transaction, cvr []byte, atc uint16) [blockBytes]byte {
	var message []byte
	for _, part := range [][]byte{
		x.amount, x.other, x.country, x.tvr, x.currency, x.date, x.kind, x.un, x.aip, x.atc,
	} {
		message = append(message, part...)
	}
	if p.appended != nil {
		cvr = p.appended(x.iad)
	}
	message = append(message, cvr...)
	if p.zeroPadded {
		message = padZeros(message)
	} else {
		message = padMarked(message)
	}
	return c.sessionKey(p.session, atc, x.un).retailMAC(message)
}

func (c Card) sessionKey(method sessionMethod, atc uint16, un []byte) key {
	r := [blockBytes]byte{byte(atc >> 8), byte(atc)}
	switch method {
	case cardKeyItself:
		return c.master
	case mastercardSKD:
		copy(r[4:], un)
		return commonSessionKey(c.master, r)
	case pbocProcess:
		return pbocProcessKey(c.master, atc)
	default: // emvCommon
		return commonSessionKey(c.master, r)
	}
}

func (t Terminal) transaction() (transaction, error) {
	amount, err := bcd(t.AmountMinor, 6)
	if err != nil {
		return transaction{}, fmt.Errorf("amount: %w", err)
	}
	if t.Currency > 999 {
		return transaction{}, fmt.Errorf("currency: want three digits of ISO 4217, got %d", t.Currency)
	}
	if t.Country > 999 {
		return transaction{}, fmt.Errorf("country: want three digits of ISO 3166-1, got %d", t.Country)
	}
	date, err := hex.DecodeString(t.Time.Format("060102"))
	if err != nil {
		return transaction{}, fmt.Errorf("date: %w", err)
	}
	currency, _ := bcd(uint64(t.Currency), 2) // fits, checked above
	country, _ := bcd(uint64(t.Country), 2)
	return transaction{
		amount: amount, other: make([]byte, 6), country: country, tvr: make([]byte, 5),
		currency: currency, date: date, kind: []byte{0}, un: t.UN[:], aip: []byte{0x18, 0x00},
	}, nil
}

// field55 writes the objects in ascending order of their tags, those that only
// terminals and acquirers care about included.
func (x transaction) field55(p personality, psn string, cryptogram []byte) []byte {
	var w fieldWriter
	w.put(0x82, x.aip)
	w.put(0x84, unhex(p.aid))
	w.put(0x95, x.tvr)
	w.put(0x9A, x.date)
	w.put(0x9C, x.kind)
	w.put(0x5F2A, x.currency)
	w.put(0x5F34, []byte{(psn[0]-'0')<<4 | psn[1] - '0'})
	w.put(0x9F02, x.amount)
	w.put(0x9F03, x.other)
	w.put(0x9F10, x.iad)
	w.put(0x9F1A, x.country)
	w.put(0x9F26, cryptogram)
	w.put(0x9F27, []byte{0x80})             // an ARQC
	w.put(0x9F33, []byte{0xE0, 0x08, 0xC8}) // terminal capabilities
	w.put(0x9F36, x.atc)
	w.put(0x9F37, x.un)
	return w.b
}
