package worker

import (
	"errors"
	"fmt"
)

// FailureKind says why a worker could not start, in the supervisor's terms.
// The zero value is invalid.
type FailureKind string

// Kinds of failure.
const (
	// FailurePINRefused: the token answered a login with any PIN error. It is
	// never tried again: a real HSM locks after a few wrong PINs.
	FailurePINRefused FailureKind = "pin-refused"
	// FailureTokenNotFound: no token, or more than one, has the label and serial.
	FailureTokenNotFound FailureKind = "token-not-found"
	// FailureModule: the module does not load, or answered with an error.
	FailureModule FailureKind = "module"
	// FailureModuleRefused: the module is not the pinned one, or others can
	// exchange it. It was not loaded.
	FailureModuleRefused FailureKind = "module-refused"
	// FailureKeys: no active key of the manifest could be proved.
	FailureKeys FailureKind = "key-unproven"
	// FailureInternal: anything else, a bad manifest or bootstrap among them.
	FailureInternal FailureKind = "internal"
)

func (k FailureKind) known() bool {
	switch k {
	case FailurePINRefused, FailureTokenNotFound, FailureModule, FailureModuleRefused, FailureKeys, FailureInternal:
		return true
	}
	return false
}

// A Failure is an error with its kind.
type Failure struct {
	Kind FailureKind
	Err  error
}

// Error is the text of the cause.
func (f *Failure) Error() string { return fmt.Sprintf("%s: %v", f.Kind, f.Err) }

// Unwrap is the cause.
func (f *Failure) Unwrap() error { return f.Err }

// failureOf finds the kind of err, FailureInternal if it has none.
func failureOf(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) && f.Kind.known() {
		return f
	}
	return &Failure{Kind: FailureInternal, Err: err}
}
