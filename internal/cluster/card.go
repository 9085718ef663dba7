package cluster

import (
	"encoding/binary"
	"fmt"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// issuerKey is the published key of the demo issuer; see softhsm-config.
var issuerKey = [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF, 0xFE, 0xDC, 0xBA, 0x98, 0x76, 0x54, 0x32, 0x10}

// MaxTokens is how many different tokens there are: five digits of the PAN and
// two of the sequence number.
const MaxTokens = 10_000_000

// A Transaction is one use of a token.
type Transaction struct {
	Token int // 0 to MaxTokens − 1
	ATC   uint16
	Date  time.Time // zero is today
	Wrong bool      // one bit of the cryptogram is flipped
}

// name is the token's PAN and sequence number.
func (x *Transaction) name() (pan, psn string) {
	return fmt.Sprintf("41111111111%05d", x.Token%100_000), fmt.Sprintf("%02d", x.Token/100_000%100)
}

// tap makes the cryptogram as the card would, in software, and the message of
// which everything but the request id is there.
func (x *Transaction) tap() (*tapsealv1.Tap, error) {
	date := x.Date
	if date.IsZero() {
		date = time.Now()
	}
	pan, psn := x.name()
	r := cryptogram.Request{Profile: cryptogram.VisaCVN10, KeyOption: cryptogram.OptionA}
	var err error
	if r.PAN, err = cryptogram.ParsePAN(pan); err != nil {
		return nil, err
	}
	if r.PSN, err = cryptogram.ParsePSN(psn); err != nil {
		return nil, err
	}
	d := &r.Data
	d.AmountAuthorised, d.Currency, d.TerminalCountry = [6]byte{4: 0x12, 5: 0x34}, [2]byte{0x09, 0x78}, [2]byte{0x02, 0x76}
	d.Date, d.AIP = bcdDate(date), [2]byte{0x18}
	binary.BigEndian.PutUint16(d.ATC[:], x.ATC)
	binary.BigEndian.PutUint32(d.UN[:], (uint32(x.Token)<<6^uint32(x.ATC))*2654435761)
	r.IAD.Len = uint8(copy(r.IAD.Bytes[:], []byte{0x06, 0x01, 0x0A, 0x03, 0xA0, 0x00, 0x00}))
	if err := sign(&r); err != nil {
		return nil, err
	}
	if x.Wrong {
		r.Cryptogram[x.ATC%8] ^= 1
	}
	return message(&r, pan, psn), nil
}

// sign runs the profile's plan with its comparison turned into a result.
func sign(r *cryptogram.Request) error {
	var p cryptogram.Plan
	var o cryptogram.Outcome
	if err := cryptogram.BuildPlan(r, &p); err != nil {
		return err
	}
	p.NumSteps = 1
	p.Steps[0].CompareBytes, p.Steps[0].ProduceBytes = 0, 8
	if err := software.Execute(issuerKey, &p, &o); err != nil {
		return err
	}
	r.Cryptogram = o.Steps[0].Bytes
	return nil
}

func message(r *cryptogram.Request, pan, psn string) *tapsealv1.Tap {
	d := &r.Data
	return &tapsealv1.Tap{
		Purpose: tapsealv1.Purpose_PURPOSE_AUTHORISE, Pan: pan, Psn: &psn,
		ChipData: &tapsealv1.Tap_Values{Values: &tapsealv1.ChipData{
			AmountAuthorised: d.AmountAuthorised[:], AmountOther: d.AmountOther[:], TerminalCountryCode: d.TerminalCountry[:],
			TerminalVerificationResults: d.TVR[:], TransactionCurrencyCode: d.Currency[:], TransactionDate: d.Date[:],
			TransactionType: d.Type[:], UnpredictableNumber: d.UN[:], ApplicationInterchangeProfile: d.AIP[:],
			ApplicationTransactionCounter: d.ATC[:], IssuerApplicationData: r.IAD.Bytes[:r.IAD.Len],
			ApplicationCryptogram: r.Cryptogram[:],
		}},
	}
}

func bcdDate(t time.Time) [3]byte {
	bcd := func(n int) byte { return byte(n/10%10<<4 | n%10) }
	y, m, d := t.Date()
	return [3]byte{bcd(y), bcd(int(m)), bcd(d)}
}
