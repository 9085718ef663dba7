package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// maxInputBytes bounds the JSON on standard input: a field 55 has at most
// 1,024 bytes.
const maxInputBytes = 64 << 10

// verifyInput is one tap and what is wanted for it, from flags or JSON, all in
// text. Empty is not given: what is given is never empty.
type verifyInput struct {
	field55, pan, psn, profile, cvr string
	arc, csu, pad                   string
	purpose, requestID              string
	device, channel, mcc, merchant  string
	atc                             string // what tap prints for people; field 55 has it
}

// fields are the names that JSON uses; flags have the same.
func (in *verifyInput) fields() map[string]*string {
	return map[string]*string{
		"field55": &in.field55, "pan": &in.pan, "psn": &in.psn, "profile": &in.profile, "cvr": &in.cvr,
		"arc": &in.arc, "csu": &in.csu, "pad": &in.pad,
		"purpose": &in.purpose, "request_id": &in.requestID, "atc": &in.atc,
		"device": &in.device, "channel": &in.channel, "mcc": &in.mcc, "merchant": &in.merchant,
	}
}

// readInput reads one JSON object of strings. A name that is unknown or comes
// twice, or a value that is empty, is an error: it would be a silent
// misunderstanding. Errors name fields and never show values.
func readInput(r io.Reader, in *verifyInput) error {
	d := json.NewDecoder(io.LimitReader(r, maxInputBytes))
	errObject := errors.New("standard input must be one JSON object of strings, as \"tapseal tap --json\" prints it")
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errObject
	}
	fields, seen := in.fields(), map[string]bool{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return errObject
		}
		field, known := fields[name]
		switch {
		case name == "error":
			return errors.New("standard input holds an error instead of a tap")
		case !known:
			return fmt.Errorf("standard input: unknown field%s", shown(name))
		case seen[name]:
			return fmt.Errorf("standard input: field %q comes twice", name)
		}
		seen[name] = true
		if t, err = d.Token(); err != nil {
			return errObject
		}
		if *field, ok = t.(string); !ok {
			return fmt.Errorf("standard input: field %q must be a string", name)
		}
		if *field == "" {
			return fmt.Errorf("standard input: field %q is empty (hint: leave it out)", name)
		}
	}
	if t, err := d.Token(); err != nil || t != json.Delim('}') {
		return errObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("standard input goes on after the JSON object")
	}
	return nil
}

// shown is a field name for an error, unless it may be a misplaced value: names
// have few digits, account numbers and cryptograms many.
func shown(name string) string {
	digits := 0
	for _, r := range name {
		if r >= '0' && r <= '9' {
			digits++
		}
	}
	if digits > 3 || len(name) > 40 {
		return ""
	}
	return fmt.Sprintf(" %q", name)
}

// merge adds what the flags say, which are nil if they are not given. The same
// thing from both sides is an error, and so is an empty value.
func (in *verifyInput) merge(flags map[string]*string) error {
	mine := in.fields()
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		value, flag := flags[name], strings.ReplaceAll(name, "_", "-")
		switch {
		case value == nil:
		case *value == "":
			return fmt.Errorf("--%s is empty (hint: leave it out)", flag)
		case *mine[name] != "":
			return fmt.Errorf("%s is given by standard input and by --%s", name, flag)
		default:
			*mine[name] = *value
		}
	}
	return nil
}

// A verification is the input in the service's terms.
type verification struct {
	tap     *tapsealv1.Tap
	respond *tapsealv1.RespondRequest // nil unless a response cryptogram is wanted
}

// decode turns the text into messages. What the values mean is checked by the
// service; only what cannot be expressed is refused here.
func (in *verifyInput) decode() (v verification, err error) {
	hexField := func(name, value string) []byte {
		b, e := hex.DecodeString(value)
		if e != nil && err == nil {
			err = fmt.Errorf("%s must be an even number of hexadecimal digits", name)
		}
		return b
	}
	switch {
	case in.field55 == "":
		return v, errors.New("field55 is missing (hint: --field55 HEX, or \"-\" for JSON on standard input)")
	case in.pan == "":
		return v, errors.New("pan is missing")
	case in.arc != "" && in.csu != "":
		return v, errors.New("arc and csu exclude each other: ARPC method 1 takes one, method 2 the other")
	case in.pad != "" && in.csu == "":
		return v, errors.New("pad goes with csu only")
	}
	v.tap = &tapsealv1.Tap{
		RequestId: in.requestID,
		ChipData:  &tapsealv1.Tap_Field55{Field55: hexField("field55", in.field55)},
		Pan:       in.pan, Profile: in.profile,
		CardVerificationResults: hexField("cvr", in.cvr),
	}
	if in.psn != "" {
		v.tap.Psn = &in.psn
	}
	if v.tap.Purpose, err = orError(err, in.purpose); err != nil {
		return v, err
	}
	if v.tap.Place, err = in.place(); err != nil {
		return v, err
	}
	switch {
	case in.arc != "":
		v.respond = &tapsealv1.RespondRequest{Tap: v.tap, Decision: &tapsealv1.RespondRequest_AuthorisationResponseCode{
			AuthorisationResponseCode: hexField("arc", in.arc),
		}}
	case in.csu != "":
		v.respond = &tapsealv1.RespondRequest{Tap: v.tap, Decision: &tapsealv1.RespondRequest_CardStatusUpdate{
			CardStatusUpdate: &tapsealv1.CardStatusUpdate{
				Csu: hexField("csu", in.csu), ProprietaryAuthenticationData: hexField("pad", in.pad),
			},
		}}
	}
	if v.respond != nil && v.tap.Purpose != tapsealv1.Purpose_PURPOSE_AUTHORISE {
		return v, errors.New("a response cryptogram needs purpose authorise")
	}
	return v, err
}

// place is where the tap came from, nil if nothing is said of it.
func (in *verifyInput) place() (*tapsealv1.Place, error) {
	p := &tapsealv1.Place{MerchantCategoryCode: in.mcc, MerchantId: in.merchant, DeviceId: in.device}
	if in.channel != "" {
		var err error
		if p.Channel, err = readChannel(in.channel); err != nil {
			return nil, fmt.Errorf("channel: %w", err)
		}
	}
	if proto.Size(p) == 0 {
		return nil, nil
	}
	return p, nil
}

// orError keeps an earlier error; else it reads the purpose.
func orError(err error, name string) (tapsealv1.Purpose, error) {
	if err != nil {
		return 0, err
	}
	switch name {
	case "", "authorise":
		return tapsealv1.Purpose_PURPOSE_AUTHORISE, nil
	case "advice":
		return tapsealv1.Purpose_PURPOSE_ADVICE, nil
	}
	return 0, errors.New("purpose must be authorise or advice")
}
