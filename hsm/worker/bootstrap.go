package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// File descriptors that the supervisor hands to a worker.
const (
	BootstrapFD = 3 // read end of a pipe with one Bootstrap, read to its end
	ControlFD   = 4 // one end of a Unix stream socket pair, JSON lines
	ListenerFD  = 5 // listening Unix socket; not used in ModeCheck
)

// maxBootstrapBytes bounds a Bootstrap: a manifest of 10,000 keys has 2 MB.
const maxBootstrapBytes = 32 << 20

// Mode is what a worker process is started for. The zero value is invalid.
type Mode uint8

// Modes.
const (
	ModeServe Mode = 1 // prove one key, then serve a socket
	ModeCheck Mode = 2 // prove every key, report, exit
)

// A Bootstrap is everything a worker is told at its start. It travels over an
// inherited pipe, because it holds the PIN: arguments and environment of a
// process can be read by others.
type Bootstrap struct {
	Mode        Mode
	Slot        int    // which of the supervisor's workers this is, for the log
	Module      string // path of the PKCS#11 module
	ModuleArgs  string // initialisation string for a module that needs one
	TokenLabel  string // the token to use: label, serial number or both
	TokenSerial string
	PIN         PIN
	Manifest    []byte // YAML, see keys.ParseManifest
	AllowedUIDs []uint32
	Guess       GuessPolicy

	ResidentKeys bool // derive from session copies of the keys, where the token allows it
}

// GuessPolicy bounds mismatches for one key and one subject (PAN and sequence
// number) in one worker.
type GuessPolicy struct {
	Mismatches uint32        // how many are answered in one window, 0 is the default
	Window     time.Duration // 0 is the default
}

// Defaults of GuessPolicy. An eight-byte cryptogram needs 2^63 guesses on
// average; 65,536 an hour leave an attacker no chance in any key's life and a
// broken terminal estate that repeats itself a wide margin.
const (
	DefaultGuessMismatches = 65_536
	DefaultGuessWindow     = time.Hour
)

func (g GuessPolicy) orDefault() GuessPolicy {
	if g.Mismatches == 0 {
		g.Mismatches = DefaultGuessMismatches
	}
	if g.Window <= 0 {
		g.Window = DefaultGuessWindow
	}
	return g
}

// wireBootstrap is the JSON form. It is the only place where a PIN is written
// anywhere, and it never leaves this file.
type wireBootstrap struct {
	Mode            Mode     `json:"mode"`
	Slot            int      `json:"slot"`
	Module          string   `json:"module"`
	ModuleArgs      string   `json:"module_args"`
	TokenLabel      string   `json:"token_label"`
	TokenSerial     string   `json:"token_serial"`
	PIN             []byte   `json:"pin"`
	Manifest        []byte   `json:"manifest"`
	AllowedUIDs     []uint32 `json:"allowed_uids"`
	GuessMismatches uint32   `json:"guess_mismatches"`
	GuessWindowNS   int64    `json:"guess_window_ns"`
	ResidentKeys    bool     `json:"resident_keys"`
}

// WriteBootstrap writes b as JSON to the pipe of one worker.
func WriteBootstrap(w io.Writer, b *Bootstrap) error {
	data, err := json.Marshal(wireBootstrap{
		Mode: b.Mode, Slot: b.Slot,
		Module: b.Module, ModuleArgs: b.ModuleArgs, TokenLabel: b.TokenLabel, TokenSerial: b.TokenSerial,
		PIN: b.PIN.Reveal(), Manifest: b.Manifest, AllowedUIDs: b.AllowedUIDs,
		GuessMismatches: b.Guess.Mismatches, GuessWindowNS: int64(b.Guess.Window),
		ResidentKeys: b.ResidentKeys,
	})
	if err != nil {
		return errors.New("encoding worker bootstrap")
	}
	defer clear(data)
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("writing worker bootstrap: %w", err)
	}
	return nil
}

// ReadBootstrap reads one Bootstrap up to the end of r. Errors never carry
// what was read.
func ReadBootstrap(r io.Reader) (*Bootstrap, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxBootstrapBytes+1))
	defer clear(data)
	if err != nil {
		return nil, fmt.Errorf("reading worker bootstrap: %w", err)
	}
	if len(data) > maxBootstrapBytes {
		return nil, errors.New("worker bootstrap is too large")
	}
	var w wireBootstrap
	if err := decodeExactly(data, &w); err != nil {
		return nil, errors.New("worker bootstrap is malformed")
	}
	if w.Mode != ModeServe && w.Mode != ModeCheck {
		return nil, errors.New("worker bootstrap has no known mode")
	}
	return &Bootstrap{
		Mode: w.Mode, Slot: w.Slot,
		Module: w.Module, ModuleArgs: w.ModuleArgs, TokenLabel: w.TokenLabel, TokenSerial: w.TokenSerial,
		PIN: PIN{bytes: w.PIN}, Manifest: w.Manifest, AllowedUIDs: w.AllowedUIDs,
		Guess: GuessPolicy{Mismatches: w.GuessMismatches, Window: time.Duration(w.GuessWindowNS)},

		ResidentKeys: w.ResidentKeys,
	}, nil
}

// decodeExactly decodes one JSON value and nothing else from data.
func decodeExactly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing data")
	}
	return nil
}
