package workertest

import (
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
	"github.com/tapseal/tapseal/hsm/frame"
)

// Item is a genuine request of transaction n under k, with an ARPC asked for.
// The cryptogram comes from the software executor, by the plan of the profile
// with its comparison turned into a result.
func Item(k Key, profile cryptogram.ProfileID, n uint32) frame.Item {
	it := frame.Item{ID: uint64(n), Key: k.ID(), Request: request(profile, n)}
	var p cryptogram.Plan
	var o cryptogram.Outcome
	if err := cryptogram.BuildPlan(&it.Request, &p); err != nil {
		panic(fmt.Sprintf("test request: %v", err))
	}
	p.NumSteps = 1
	p.Steps[0].CompareBytes, p.Steps[0].ProduceBytes = 0, 8
	if err := software.Execute(k, &p, &o); err != nil {
		panic(fmt.Sprintf("test request: %v", err))
	}
	it.Request.Cryptogram = o.Steps[0].Bytes
	return it
}

func request(profile cryptogram.ProfileID, n uint32) cryptogram.Request {
	digits := fmt.Sprintf("41111111%08d", n%100_000_000)
	pan, err := cryptogram.ParsePAN(digits)
	if err != nil {
		panic(err)
	}
	r := cryptogram.Request{Profile: profile, KeyOption: cryptogram.OptionA, PAN: pan}
	r.Data.AmountAuthorised = [6]byte{0, 0, 0, 0, 0x12, 0x34}
	binary.BigEndian.PutUint32(r.Data.UN[:], n*2654435761)
	binary.BigEndian.PutUint16(r.Data.ATC[:], uint16(n))
	cvn := byte(0x0A)
	r.Response = cryptogram.Response{Kind: cryptogram.ResponseCode, ARC: [2]byte{'0', '0'}}
	if profile == cryptogram.VisaCVN18 {
		cvn = 0x12
		r.Response = cryptogram.Response{Kind: cryptogram.CardStatusUpdate, CSU: [4]byte{0, 0x82, 0, 0}}
	}
	r.IAD.Len = uint8(copy(r.IAD.Bytes[:], []byte{0x06, 0x01, cvn, 0x03, 0xA0, 0x00, 0x00}))
	return r
}

// ARPC is the response cryptogram that a genuine request must get.
func ARPC(k Key, it *frame.Item) (arpc [8]byte, n uint8) {
	var p cryptogram.Plan
	var o cryptogram.Outcome
	if err := cryptogram.BuildPlan(&it.Request, &p); err != nil {
		panic(fmt.Sprintf("test request: %v", err))
	}
	if err := software.Execute(k, &p, &o); err != nil {
		panic(fmt.Sprintf("test request: %v", err))
	}
	return o.Steps[1].Bytes, p.Steps[1].ProduceBytes
}

// Spoil makes a genuine request a wrong one: bit n of its cryptogram flips.
func Spoil(it frame.Item, bit int) frame.Item {
	it.Request.Cryptogram[bit/8%8] ^= 1 << (bit % 8)
	return it
}
