package scratch

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/tapseal/tapseal/cryptogram"
)

// The process reads one Setup line and answers it with a reply line, then
// reads request lines and answers each with a reply line, in order, until its
// standard input ends. Lines are JSON; binary values are base64 as
// encoding/json has it.

// MaxLineBytes bounds a line in either direction.
const MaxLineBytes = 64 << 10

// Own says which token the process makes for itself. The zero value is none:
// the token was given, and is not initialised.
type Own string

// Tokens that the process can make.
const (
	OwnNothing Own = ""
	OwnSoftHSM Own = "softhsm" // SoftHSM, configured by SOFTHSM2_CONF inside the directory
	OwnNSS     Own = "nss"     // an NSS database inside the directory
)

// Setup says which token to use.
type Setup struct {
	Module     string `json:"module"`
	ModuleArgs string `json:"module_args,omitempty"`
	Slot       *uint  `json:"slot,omitempty"`
	PINFile    string `json:"pin_file,omitempty"`
	Own        Own    `json:"own,omitempty"`
	OwnDir     string `json:"own_dir,omitempty"`
}

// DirPrefix starts the name of every directory that a token may be made in.
const DirPrefix = "tapseal-scratch-"

// Request is a plan and the value of its root key.
type Request struct {
	Root [16]byte // K1 ‖ K2, a published test value
	Plan cryptogram.Plan
}

// Reply is the outcome of one request.
type Reply struct {
	Outcome cryptogram.Outcome
}

type wireRequest struct {
	Root        []byte           `json:"root"`
	Derivations []wireDerivation `json:"derivations"`
	Steps       []wireStep       `json:"steps"`
}

type wireDerivation struct {
	Parent  cryptogram.KeyNode `json:"parent"`
	Purpose cryptogram.Purpose `json:"purpose"`
	Input   []byte             `json:"input"`
}

type wireStep struct {
	Op           cryptogram.Op      `json:"op"`
	Key          cryptogram.KeyNode `json:"key"`
	Left         cryptogram.KeyNode `json:"left"`
	Requires     cryptogram.StepRef `json:"requires"`
	CompareBytes uint8              `json:"compare_bytes"`
	ProduceBytes uint8              `json:"produce_bytes"`
	Expected     []byte             `json:"expected,omitempty"`
	Data         []byte             `json:"data"`
}

type wireReply struct {
	Error string        `json:"error,omitempty"`
	Steps []wireOutcome `json:"steps,omitempty"`
}

type wireOutcome struct {
	Status cryptogram.StepStatus `json:"status"`
	Bytes  []byte                `json:"bytes,omitempty"`
}

// AppendRequest appends a request line.
func AppendRequest(b []byte, r *Request) ([]byte, error) {
	p := &r.Plan
	if int(p.NumDerivations) > len(p.Derivations) || int(p.NumSteps) > len(p.Steps) {
		return b, errors.New("plan has too many derivations or steps")
	}
	m := wireRequest{Root: r.Root[:]}
	for i := range p.NumDerivations {
		d := &p.Derivations[i]
		m.Derivations = append(m.Derivations, wireDerivation{Parent: d.Parent, Purpose: d.Purpose, Input: d.Input[:]})
	}
	for i := range p.NumSteps {
		s := &p.Steps[i]
		if int(s.DataBytes) > len(s.Data) {
			return b, fmt.Errorf("step %d of the plan is too long", i+1)
		}
		w := wireStep{
			Op: s.Op, Key: s.Key, Left: s.Left, Requires: s.Requires,
			CompareBytes: s.CompareBytes, ProduceBytes: s.ProduceBytes, Data: s.Data[:s.DataBytes],
		}
		if s.CompareBytes > 0 {
			w.Expected = s.Expected[:]
		}
		m.Steps = append(m.Steps, w)
	}
	return appendLine(b, &m)
}

// DecodeRequest reads a request line. The plan is not validated: the executor
// does that.
func DecodeRequest(line []byte, r *Request) error {
	var m wireRequest
	if err := strictly(line, &m); err != nil {
		return err
	}
	*r = Request{}
	if len(m.Derivations) > len(r.Plan.Derivations) || len(m.Steps) > len(r.Plan.Steps) {
		return errors.New("plan has too many derivations or steps")
	}
	if err := fixed(r.Root[:], m.Root, "root"); err != nil {
		return err
	}
	r.Plan.NumDerivations, r.Plan.NumSteps = uint8(len(m.Derivations)), uint8(len(m.Steps))
	for i, d := range m.Derivations {
		to := &r.Plan.Derivations[i]
		to.Parent, to.Purpose = d.Parent, d.Purpose
		if err := fixed(to.Input[:], d.Input, "derivation input"); err != nil {
			return err
		}
	}
	for i := range m.Steps {
		if err := m.Steps[i].decode(&r.Plan.Steps[i]); err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
	}
	return nil
}

func (w *wireStep) decode(s *cryptogram.Step) error {
	s.Op, s.Key, s.Left, s.Requires = w.Op, w.Key, w.Left, w.Requires
	s.CompareBytes, s.ProduceBytes = w.CompareBytes, w.ProduceBytes
	if len(w.Data) > len(s.Data) {
		return errors.New("data is too long")
	}
	s.DataBytes = uint16(copy(s.Data[:], w.Data))
	if w.Expected == nil {
		return nil
	}
	return fixed(s.Expected[:], w.Expected, "expected value")
}

// AppendReply appends the reply line to a plan of the given number of steps,
// or the failure instead.
func AppendReply(b []byte, o *cryptogram.Outcome, steps int, failure error) ([]byte, error) {
	var m wireReply
	if failure != nil {
		m.Error = failure.Error()
		return appendLine(b, &m)
	}
	for i := range steps {
		w := wireOutcome{Status: o.Steps[i].Status}
		if w.Status == cryptogram.Produced {
			w.Bytes = o.Steps[i].Bytes[:]
		}
		m.Steps = append(m.Steps, w)
	}
	return appendLine(b, &m)
}

// DecodeReply reads a reply line. A failure that the process reported comes
// back as *RequestError.
func DecodeReply(line []byte, o *cryptogram.Outcome) error {
	var m wireReply
	if err := strictly(line, &m); err != nil {
		return err
	}
	if m.Error != "" {
		return &RequestError{Text: m.Error}
	}
	*o = cryptogram.Outcome{}
	if len(m.Steps) > len(o.Steps) {
		return errors.New("reply has too many steps")
	}
	for i, w := range m.Steps {
		o.Steps[i].Status = w.Status
		if w.Status != cryptogram.Produced {
			continue
		}
		if err := fixed(o.Steps[i].Bytes[:], w.Bytes, "result"); err != nil {
			return err
		}
	}
	return nil
}

// A RequestError is the failure of one request, as the process reported it:
// it can take the next one.
type RequestError struct{ Text string }

// Error is the text of the process; it holds no key and no message.
func (e *RequestError) Error() string { return e.Text }

func appendLine(b []byte, m any) ([]byte, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return b, err
	}
	return append(append(b, line...), '\n'), nil
}

func fixed(dst, v []byte, what string) error {
	if len(v) != len(dst) {
		return fmt.Errorf("%s: want %d bytes, got %d", what, len(dst), len(v))
	}
	copy(dst, v)
	return nil
}

// DecodeSetup reads a setup line.
func DecodeSetup(line []byte) (Setup, error) {
	var s Setup
	err := strictly(line, &s)
	return s, err
}

// strictly decodes one JSON value with known fields only: another program at
// the other end must not pass for a scratch process.
func strictly(line []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return quiet(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("line has more than one value")
	}
	return nil
}

// quiet drops the text of a decoding error where it could quote the line,
// which holds key values and messages.
func quiet(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var b64 base64.CorruptInputError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("line is not JSON at byte %d", syntax.Offset)
	case errors.As(err, &kind):
		return fmt.Errorf("field %q has the wrong type", kind.Field)
	case errors.As(err, &b64):
		return errors.New("a value is not base64")
	}
	return errors.New("line does not decode")
}
