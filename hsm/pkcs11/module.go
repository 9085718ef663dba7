package pkcs11

/*
#include <stdlib.h>
*/
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"
	"unsafe"

	p11 "github.com/miekg/pkcs11"
)

// Config says which token of which module to use. The token is named by slot,
// label, serial number, or several of them, which must agree.
type Config struct {
	Module      string // path of the PKCS#11 module
	ModuleArgs  string // initialisation string for a module that needs one (NSS softokn)
	TokenLabel  string
	TokenSerial string
	Slot        *uint

	// ResidentKeys keeps a session copy of each key that was proved and
	// derives from that, where the token allows it. Log gets one line where
	// it does not; nil is allowed.
	ResidentKeys bool
	Log          *slog.Logger

	// MeasureCPU also adds up the CPU time of crossings: two system calls
	// for each, so it is for measurements.
	MeasureCPU bool
}

// A module is a loaded and initialised PKCS#11 library. It is never unloaded,
// and finalised only when nothing runs in it: a vendor library may take the
// process down when it is finalised under load.
type module struct {
	ctx       *p11.Ctx
	functions functionList
	path      string
	args      unsafe.Pointer // C string, must outlive C_Initialize
}

// Several processes that start together make SoftHSM answer C_GetTokenInfo
// with CKR_GENERAL_ERROR, or miss a token, now and then (30 of 300 starts).
// Initialising again helps. Nothing here has used the PIN yet, so trying again
// is harmless.
const (
	findAttempts   = 8
	findFirstPause = 5 * time.Millisecond
	findMaxPause   = 100 * time.Millisecond
)

// openModule loads and initialises the module and finds the token's slot.
func openModule(cfg Config) (*module, uint, error) {
	m, err := loadModule(cfg)
	if err != nil {
		return nil, 0, err
	}
	pause := findFirstPause
	for attempt := 1; ; attempt++ {
		slot, err := m.initialiseAndFind(cfg)
		if err == nil {
			return m, slot, nil
		}
		if attempt == findAttempts || errors.Is(err, errAmbiguous) {
			m.free()
			return nil, 0, err
		}
		time.Sleep(pause)
		pause = min(2*pause, findMaxPause)
	}
}

// initialiseAndFind leaves the module finalised when it fails.
func (m *module) initialiseAndFind(cfg Config) (uint, error) {
	if err := m.initialise(); err != nil {
		return 0, err
	}
	slot, err := m.findToken(cfg)
	if err != nil {
		m.finalise()
	}
	return slot, err
}

func loadModule(cfg Config) (*module, error) {
	if cfg.Module == "" {
		return nil, fmt.Errorf("%w: no path given", ErrModule)
	}
	if _, err := os.Stat(cfg.Module); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModule, err)
	}
	m := &module{path: cfg.Module}
	if m.ctx = p11.New(cfg.Module); m.ctx == nil {
		return nil, fmt.Errorf("%w: loading %s failed", ErrModule, cfg.Module)
	}
	var err error
	if m.functions, err = loadFunctions(cfg.Module); err != nil {
		return nil, err
	}
	if cfg.ModuleArgs != "" {
		m.args = unsafe.Pointer(C.CString(cfg.ModuleArgs))
	}
	return m, nil
}

func (m *module) initialise() error {
	var opts []p11.InitializeOption
	if m.args != nil {
		// NSS reads its parameters where the standard has pReserved.
		opts = append(opts, p11.InitializeWithReserved(m.args))
	}
	if err := m.ctx.Initialize(opts...); err != nil {
		// CKR_CRYPTOKI_ALREADY_INITIALIZED too: one process, one user of the module.
		return fmt.Errorf("%w: %w", ErrModule, call("C_Initialize", err))
	}
	return nil
}

// finalise ends the use of the module. Its return code changes nothing.
func (m *module) finalise() { _ = m.ctx.Finalize() }

func (m *module) free() {
	C.free(m.args)
	m.args = nil
}

var errAmbiguous = errors.New("more than one token has it")

// findToken gives the slot of the one token that cfg names.
func (m *module) findToken(cfg Config) (uint, error) {
	if cfg.Slot == nil && cfg.TokenLabel == "" && cfg.TokenSerial == "" {
		return 0, fmt.Errorf("%w: neither slot nor label nor serial number given", ErrTokenNotFound)
	}
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrModule, call("C_GetSlotList", err))
	}
	var found []uint
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrModule, call("C_GetTokenInfo", err))
		}
		if cfg.matches(slot, &info) {
			found = append(found, slot)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, fmt.Errorf("%w: %s", ErrTokenNotFound, cfg.tokenName())
	}
	return 0, fmt.Errorf("%w: %s: %w", ErrTokenNotFound, cfg.tokenName(), errAmbiguous)
}

func (cfg *Config) matches(slot uint, info *p11.TokenInfo) bool {
	switch {
	case cfg.Slot != nil && *cfg.Slot != slot:
		return false
	case cfg.TokenLabel != "" && strings.TrimRight(info.Label, " \x00") != cfg.TokenLabel:
		return false
	case cfg.TokenSerial != "" && strings.TrimRight(info.SerialNumber, " \x00") != cfg.TokenSerial:
		return false
	}
	return true
}

func (cfg *Config) tokenName() string {
	var parts []string
	if cfg.Slot != nil {
		parts = append(parts, fmt.Sprintf("slot %d", *cfg.Slot))
	}
	if cfg.TokenLabel != "" {
		parts = append(parts, fmt.Sprintf("label %q", cfg.TokenLabel))
	}
	if cfg.TokenSerial != "" {
		parts = append(parts, fmt.Sprintf("serial number %q", cfg.TokenSerial))
	}
	return strings.Join(parts, ", ")
}
