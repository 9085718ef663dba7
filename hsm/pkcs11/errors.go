package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// Errors of Open that callers branch on.
var (
	// ErrPINRefused: the token refused the PIN. Never try again by itself:
	// a real HSM locks after a few wrong ones.
	ErrPINRefused = errors.New("the token refused the PIN")
	// ErrTokenNotFound: no token, or more than one, has this label or serial number.
	ErrTokenNotFound = errors.New("token not found")
	// ErrModule: the module does not load, initialise or answer.
	ErrModule = errors.New("PKCS#11 module does not work")
	// ErrDead: the epoch is over; the process must be replaced.
	ErrDead = errors.New("the login or the session of this token is gone")
)

// A callError is a return code other than CKR_OK, with the call that gave it.
type callError struct {
	call string
	rv   p11.Error
}

// Error names the call and the code, nothing else.
func (e *callError) Error() string { return fmt.Sprintf("%s: %s", e.call, returnCode(e.rv)) }

// returnCode adds a name that miekg/pkcs11 does not know.
func returnCode(rv p11.Error) string {
	if rv == p11.CKR_ACTION_PROHIBITED {
		return "pkcs11: 0x1B: CKR_ACTION_PROHIBITED"
	}
	return rv.Error()
}

// call wraps an error of miekg/pkcs11 with the name of the function.
func call(name string, err error) error {
	if err == nil {
		return nil
	}
	var rv p11.Error
	if errors.As(err, &rv) {
		return &callError{call: name, rv: rv}
	}
	return fmt.Errorf("%s: %w", name, err)
}

// refusesPIN reports whether a login was answered by the token's judgement of
// the PIN, so that another try could lock it. A token without a user PIN has
// judged nothing: see hasUserPIN.
func refusesPIN(rv p11.Error) bool {
	switch rv {
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE,
		p11.CKR_PIN_EXPIRED, p11.CKR_PIN_LOCKED:
		return true
	}
	return false
}

// endsEpoch reports whether a return code means that login, session or token
// are gone, so that no handle can be trusted any more.
func endsEpoch(rv p11.Error) bool {
	switch rv {
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED,
		p11.CKR_USER_NOT_LOGGED_IN,
		p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_MEMORY, p11.CKR_DEVICE_REMOVED,
		p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_SLOT_ID_INVALID,
		p11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return true
	}
	return false
}

// isGone reports whether a return code means that an object is not there.
func isGone(rv p11.Error) bool {
	return rv == p11.CKR_KEY_HANDLE_INVALID || rv == p11.CKR_OBJECT_HANDLE_INVALID
}
