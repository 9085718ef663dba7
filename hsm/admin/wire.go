package admin

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
)

// Order is what the admin process reads from its standard input: one act on
// one token of one module.
type Order struct {
	Module     string // path of the PKCS#11 module
	ModuleArgs string // initialisation string for a module that needs one (NSS softokn)
	Act        Act
}

// maxMessageBytes bounds a message in either direction.
const maxMessageBytes = 1 << 20

type wireOrder struct {
	Module     string    `json:"module"`
	ModuleArgs string    `json:"module_args,omitempty"`
	Operation  Operation `json:"operation"`
	TokenLabel string    `json:"token_label"`
	PINFile    string    `json:"pin_file,omitempty"`
	PIN        []byte    `json:"pin,omitempty"`
	Key        *wireKey  `json:"key,omitempty"`
	Label      string    `json:"label,omitempty"`
}

type wireKey struct {
	Label string `json:"label"`
	Value string `json:"value"`
}

type wireReply struct {
	Error       string       `json:"error,omitempty"`
	TokenSerial string       `json:"token_serial,omitempty"`
	Key         *wireMade    `json:"key,omitempty"`
	Objects     []wireObject `json:"objects,omitempty"`
}

type wireMade struct {
	ID         string `json:"id"`
	CheckValue string `json:"check_value"`
	Canary     string `json:"canary"`
}

type wireObject struct {
	ID         string   `json:"id"`
	Label      string   `json:"label"`
	CheckValue string   `json:"check_value,omitempty"`
	Faults     []string `json:"faults,omitempty"`
}

// WriteOrder writes an order as JSON.
func WriteOrder(w io.Writer, o *Order) error {
	m := wireOrder{
		Module: o.Module, ModuleArgs: o.ModuleArgs,
		Operation: o.Act.Operation, TokenLabel: o.Act.TokenLabel, PINFile: o.Act.PINFile, Label: o.Act.Label,
	}
	o.Act.PIN.Use(func(b []byte) { m.PIN = bytes.Clone(b) })
	defer clear(m.PIN)
	if k := o.Act.Key; k != nil {
		m.Key = &wireKey{Label: k.Label, Value: hex.EncodeToString(k.Value[:])}
	}
	return json.NewEncoder(w).Encode(&m)
}

// ReadOrder reads and checks an order. Unknown fields are an error.
func ReadOrder(r io.Reader) (Order, error) {
	var m wireOrder
	if err := decode(r, &m); err != nil {
		return Order{}, fmt.Errorf("reading order: %w", err)
	}
	o := Order{Module: m.Module, ModuleArgs: m.ModuleArgs, Act: Act{
		Operation: m.Operation, TokenLabel: m.TokenLabel, PINFile: m.PINFile, Label: m.Label,
	}}
	if len(m.PIN) > 0 {
		o.Act.PIN = secret.New(m.PIN)
	}
	if m.Key != nil {
		o.Act.Key = &DemoKey{Label: m.Key.Label}
		if err := fixedHex(o.Act.Key.Value[:], m.Key.Value); err != nil {
			return Order{}, fmt.Errorf("reading order: key value: %w", err)
		}
	}
	if o.Module == "" {
		return Order{}, errors.New("reading order: module is missing")
	}
	if err := o.Act.Check(); err != nil {
		return Order{}, fmt.Errorf("reading order: %w", err)
	}
	return o, nil
}

// WriteReply writes the result of an act, or the error that it ended in.
func WriteReply(w io.Writer, res Result, failure error) error {
	var m wireReply
	if failure != nil {
		m.Error = failure.Error()
		return json.NewEncoder(w).Encode(&m)
	}
	m.TokenSerial = res.TokenSerial
	if k := res.Key; k != nil {
		m.Key = &wireMade{
			ID: k.ID.String(), CheckValue: hex.EncodeToString(k.CheckValue[:]), Canary: hex.EncodeToString(k.Canary[:]),
		}
	}
	for _, o := range res.Objects {
		m.Objects = append(m.Objects, wireObject{
			ID: hex.EncodeToString(o.ID), Label: o.Label, CheckValue: hex.EncodeToString(o.CheckValue), Faults: o.Faults,
		})
	}
	return json.NewEncoder(w).Encode(&m)
}

// ReadReply reads what WriteReply wrote. The error of an act comes back as
// *ActError, a reply that does not decode as another error.
func ReadReply(r io.Reader) (Result, error) {
	var m wireReply
	if err := decode(r, &m); err != nil {
		return Result{}, fmt.Errorf("reading reply: %w", err)
	}
	if m.Error != "" {
		return Result{}, &ActError{Text: m.Error}
	}
	res := Result{TokenSerial: m.TokenSerial}
	if m.Key != nil {
		k, err := m.Key.decode()
		if err != nil {
			return Result{}, fmt.Errorf("reading reply: %w", err)
		}
		res.Key = &k
	}
	for _, o := range m.Objects {
		obj := Object{Label: o.Label, Faults: o.Faults}
		var err1, err2 error
		obj.ID, err1 = hex.DecodeString(o.ID)
		obj.CheckValue, err2 = hex.DecodeString(o.CheckValue)
		if err := errors.Join(err1, err2); err != nil {
			return Result{}, fmt.Errorf("reading reply: object: %w", err)
		}
		res.Objects = append(res.Objects, obj)
	}
	return res, nil
}

func (m *wireMade) decode() (MadeKey, error) {
	id, err := keys.ParseID(m.ID)
	if err != nil {
		return MadeKey{}, err
	}
	k := MadeKey{ID: id}
	if err := fixedHex(k.CheckValue[:], m.CheckValue); err != nil {
		return MadeKey{}, fmt.Errorf("check value: %w", err)
	}
	if err := fixedHex(k.Canary[:], m.Canary); err != nil {
		return MadeKey{}, fmt.Errorf("canary: %w", err)
	}
	return k, nil
}

// An ActError is the failure that the admin process reported.
type ActError struct{ Text string }

// Error is the text of the admin process; it names no PIN and no key value.
func (e *ActError) Error() string { return e.Text }

func decode(r io.Reader, into any) error {
	d := json.NewDecoder(io.LimitReader(r, maxMessageBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one message")
	}
	return nil
}

// fixedHex decodes exactly len(dst) bytes. The error never carries s, which
// may be a key value.
func fixedHex(dst []byte, s string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("want %d hexadecimal digits, got %d", 2*len(dst), len(s))
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		clear(dst)
		return errors.New("not hexadecimal")
	}
	return nil
}
