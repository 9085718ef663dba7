package pkcs11

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// randomPINBytes of randomness, written as hexadecimal digits.
const randomPINBytes = 16

func randomPIN() []byte {
	raw := make([]byte, randomPINBytes)
	_, _ = rand.Read(raw) // never fails: crypto/rand ends the process instead
	defer clear(raw)
	return hex.AppendEncode(nil, raw)
}

// initToken makes a token with the label and user PIN of its own and gives its
// serial number. It knows two kinds, and refuses anything else: a new SoftHSM
// token, and an NSS database that nobody has set a PIN for. It never touches a
// token that exists. pin is not wiped.
func initToken(cfg Config, pin []byte) (serial string, err error) {
	m, err := loadModule(cfg)
	if err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	defer m.free()
	if err := m.initialise(); err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	defer m.finalise()
	info, err := m.ctx.GetInfo()
	if err != nil {
		return "", fmt.Errorf("making a token: %w: %w", ErrModule, call("C_GetInfo", err))
	}
	var slot uint
	soPIN := []byte(nil)
	switch {
	case strings.HasPrefix(info.ManufacturerID, "SoftHSM"):
		soPIN = randomPIN() // forgotten: such a token is deleted, never reset
		slot, err = m.initSoftHSM(cfg.TokenLabel, soPIN)
	case strings.HasPrefix(info.LibraryDescription, "NSS"):
		slot, err = m.freshNSS(cfg) // its first security officer has an empty PIN
	default:
		err = fmt.Errorf("neither SoftHSM nor NSS softokn: %q", info.LibraryDescription)
	}
	defer clear(soPIN)
	if err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	if err := m.initPIN(slot, soPIN, pin); err != nil {
		return "", fmt.Errorf("making a token: %w", err)
	}
	t, err := m.ctx.GetTokenInfo(slot)
	if err != nil {
		return "", fmt.Errorf("making a token: %w", call("C_GetTokenInfo", err))
	}
	return strings.TrimRight(t.SerialNumber, " \x00"), nil
}

// initSoftHSM initialises the first free slot and finds the slot of the new
// token, which has another number.
func (m *module) initSoftHSM(label string, soPIN []byte) (uint, error) {
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return 0, call("C_GetSlotList", err)
	}
	free, found := uint(0), false
	for _, slot := range slots {
		info, err := m.ctx.GetTokenInfo(slot)
		switch {
		case err != nil:
			return 0, call("C_GetTokenInfo", err)
		case info.Flags&p11.CKF_TOKEN_INITIALIZED == 0:
			free, found = slot, true
		case strings.TrimRight(info.Label, " \x00") == label:
			return 0, fmt.Errorf("a token with label %q exists", label)
		}
	}
	if !found {
		return 0, errors.New("no free slot")
	}
	if err := m.ctx.InitToken(free, string(soPIN), label); err != nil {
		return 0, call("C_InitToken", err)
	}
	return m.findToken(Config{TokenLabel: label})
}

// freshNSS finds the database token and makes sure that it has no PIN yet.
func (m *module) freshNSS(cfg Config) (uint, error) {
	slot, err := m.findToken(Config{TokenLabel: cfg.TokenLabel})
	if err != nil {
		return 0, err
	}
	info, err := m.ctx.GetTokenInfo(slot)
	if err != nil {
		return 0, call("C_GetTokenInfo", err)
	}
	if info.Flags&p11.CKF_USER_PIN_INITIALIZED != 0 {
		return 0, fmt.Errorf("the database with label %q has a PIN: it is not a new one", cfg.TokenLabel)
	}
	return slot, nil
}

// initPIN sets the user PIN as the security officer.
func (m *module) initPIN(slot uint, soPIN, pin []byte) error {
	s, err := m.ctx.OpenSession(slot, readWrite)
	if err != nil {
		return call("C_OpenSession", err)
	}
	defer func() { _ = m.ctx.CloseSession(s) }()
	if err := m.functions.login(s, p11.CKU_SO, soPIN); err != nil {
		return err
	}
	if err := m.ctx.InitPIN(s, string(pin)); err != nil {
		return call("C_InitPIN", err)
	}
	return call("C_Logout", m.ctx.Logout(s))
}
