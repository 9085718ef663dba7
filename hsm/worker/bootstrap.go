package worker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
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
	ModuleHash  ModuleHash
	ModuleArgs  string // initialisation string for a module that needs one
	TokenLabel  string // the token to use: label, serial number or both
	TokenSerial string
	PIN         secret.Secret // at most secret.MaxPINBytes, which fits the byte of its length
	Manifest    []byte        // YAML, see keys.ParseManifest
	AllowedUIDs []uint32
	Guess       GuessPolicy

	ResidentKeys bool // derive from session copies of the keys, where the token allows it
}

// GuessPolicy bounds mismatches of one caller for one key and one subject (PAN
// and sequence number) in one worker. Those of all callers are bounded by 16 times
// as many.
type GuessPolicy struct {
	Mismatches uint32        // how many are answered in one window, 0 is the default
	Window     time.Duration // 0 is the default
}

// Defaults of GuessPolicy. An eight-byte cryptogram needs 2^63 guesses on
// average; 65,536 an hour, or 2^20 for all callers together, leave an attacker no
// chance in any key's life and a broken terminal estate that repeats itself a wide
// margin.
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

// wireBootstrap is the JSON form of all but the PIN.
type wireBootstrap struct {
	Mode            Mode     `json:"mode"`
	Slot            int      `json:"slot"`
	Module          string   `json:"module"`
	ModuleHash      string   `json:"module_sha256"`
	ModuleArgs      string   `json:"module_args"`
	TokenLabel      string   `json:"token_label"`
	TokenSerial     string   `json:"token_serial"`
	Manifest        []byte   `json:"manifest"`
	AllowedUIDs     []uint32 `json:"allowed_uids"`
	GuessMismatches uint32   `json:"guess_mismatches"`
	GuessWindowNS   int64    `json:"guess_window_ns"`
	ResidentKeys    bool     `json:"resident_keys"`
}

// WriteBootstrap writes b to the pipe of one worker: one byte with the length
// of the PIN, the PIN, then JSON. The PIN is not in the JSON, because encoders
// and decoders leave copies in memory that nobody can wipe.
func WriteBootstrap(w io.Writer, b *Bootstrap) error {
	data, err := json.Marshal(wireBootstrap{
		Mode: b.Mode, Slot: b.Slot,
		Module: b.Module, ModuleHash: b.ModuleHash.String(), ModuleArgs: b.ModuleArgs,
		TokenLabel: b.TokenLabel, TokenSerial: b.TokenSerial,
		Manifest: b.Manifest, AllowedUIDs: b.AllowedUIDs,
		GuessMismatches: b.Guess.Mismatches, GuessWindowNS: int64(b.Guess.Window),
		ResidentKeys: b.ResidentKeys,
	})
	if err != nil {
		return errors.New("encoding worker bootstrap")
	}
	if err := writePIN(w, b.PIN); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("writing worker bootstrap: %w", err)
	}
	return nil
}

func writePIN(w io.Writer, pin secret.Secret) (err error) {
	pin.Use(func(b []byte) {
		if len(b) > secret.MaxPINBytes {
			err = errors.New("writing worker bootstrap: the PIN is too long")
			return
		}
		head := make([]byte, 1+secret.MaxPINBytes)
		defer clear(head)
		head[0] = byte(len(b))
		if _, writeErr := w.Write(head[:1+copy(head[1:], b)]); writeErr != nil {
			err = fmt.Errorf("writing worker bootstrap: %w", writeErr)
		}
	})
	return err
}

func readPIN(r io.Reader) (secret.Secret, error) {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return secret.Secret{}, err
	}
	pin := make([]byte, length[0])
	if _, err := io.ReadFull(r, pin); err != nil {
		clear(pin)
		return secret.Secret{}, err
	}
	return secret.New(pin), nil
}

// ReadBootstrap reads one Bootstrap up to the end of r. Errors never carry
// what was read.
func ReadBootstrap(r io.Reader) (b *Bootstrap, err error) {
	pin, err := readPIN(r)
	if err != nil {
		return nil, fmt.Errorf("reading worker bootstrap: %w", err)
	}
	defer func() {
		if err != nil {
			pin.Wipe()
		}
	}()
	data, err := io.ReadAll(io.LimitReader(r, maxBootstrapBytes+1))
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
	hash, err := ParseModuleHash(w.ModuleHash)
	if err != nil {
		return nil, errors.New("worker bootstrap has no hash of the module")
	}
	return &Bootstrap{
		Mode: w.Mode, Slot: w.Slot,
		Module: w.Module, ModuleHash: hash, ModuleArgs: w.ModuleArgs,
		TokenLabel: w.TokenLabel, TokenSerial: w.TokenSerial,
		PIN: pin, Manifest: w.Manifest, AllowedUIDs: w.AllowedUIDs,
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
