package pkcs11

import (
	"errors"
	"fmt"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// sessions are the two sessions of a process on its token. The holder is only
// there to keep the login, which ends with the last session; work carries the
// operations and is thrown away after any error, because later calls on it may
// answer CKR_OPERATION_ACTIVE.
type sessions struct {
	m      *module
	slot   uint
	flags  uint // of OpenSession
	holder p11.SessionHandle
	work   p11.SessionHandle
}

// Read-only sessions are all a data worker gets: in one, the token itself
// refuses to make, change or destroy a token object.
const (
	readOnly  = p11.CKF_SERIAL_SESSION
	readWrite = p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION
)

// A login that SoftHSM answers with CKR_USER_PIN_NOT_INITIALIZED, which it does
// now and then while other processes start, was no judgement of the PIN:
// initialising again and asking once more cannot lock a token.
const loginAttempts = 5

// login opens the module and both sessions. The PIN is judged at most once,
// and wiped in every case.
func login(cfg Config, flags uint, pin []byte) (*sessions, error) {
	defer clear(pin)
	for attempt := 1; ; attempt++ {
		m, slot, err := openModule(cfg)
		if err != nil {
			return nil, err
		}
		s, err := openSessions(m, slot, flags, pin)
		if err == nil {
			return s, nil
		}
		m.finalise()
		var failure *callError
		if attempt == loginAttempts || !errors.As(err, &failure) || failure.rv != p11.CKR_USER_PIN_NOT_INITIALIZED {
			return nil, err
		}
		time.Sleep(findMaxPause)
	}
}

// openSessions opens both sessions and logs in, with exactly one C_Login. It
// does not wipe the PIN.
func openSessions(m *module, slot, flags uint, pin []byte) (*sessions, error) {
	s := &sessions{m: m, slot: slot, flags: flags}
	var err error
	if s.holder, err = m.ctx.OpenSession(slot, flags); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModule, call("C_OpenSession", err))
	}
	if err := s.login(pin); err != nil {
		return nil, err
	}
	if s.work, err = m.ctx.OpenSession(slot, flags); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrModule, call("C_OpenSession", err))
	}
	return s, nil
}

func (s *sessions) login(pin []byte) error {
	err := s.m.functions.login(s.holder, p11.CKU_USER, pin)
	if err == nil {
		return nil
	}
	var failure *callError
	if errors.As(err, &failure) && refusesPIN(failure.rv) {
		return fmt.Errorf("%w: %w", ErrPINRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrModule, err)
}

// replace closes the working session, with every object in it, and opens a
// new one. An error means that the epoch is over.
func (s *sessions) replace() error {
	// The session may be gone already; what counts is the new one.
	_ = s.m.ctx.CloseSession(s.work)
	var err error
	if s.work, err = s.m.ctx.OpenSession(s.slot, s.flags); err != nil {
		return call("C_OpenSession", err)
	}
	return nil
}

// close ends both sessions and so the login.
func (s *sessions) close() {
	_ = s.m.ctx.CloseSession(s.work)
	_ = s.m.ctx.CloseSession(s.holder)
}
