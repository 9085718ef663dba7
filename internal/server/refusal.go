package server

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tapseal/tapseal/internal/authz"
)

// A refusal is why a tap is not looked at although it may be well formed. On a
// stream it is the tap's error, of a unary call it is the status.
type refusal struct {
	code  codes.Code
	text  string
	after time.Duration // when to come again; 0: not as it is
}

// Error is the text that the caller sees.
func (r *refusal) Error() string { return r.text }

// status is the refusal of a unary call or of a stream.
func (r *refusal) status() error {
	s := status.New(r.code, r.text)
	if r.after > 0 {
		if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)}); err == nil {
			s = with
		}
	}
	return s.Err()
}

var (
	errTooManyTaps = &refusal{code: codes.ResourceExhausted, text: "taps: a message may hold at most 256"}
	errKeySet      = &refusal{code: codes.PermissionDenied, text: "the policy does not let this caller use the card's key set"}
)

// limited is the refusal that goes with an admission.
func limited(a authz.Admission) *refusal {
	text := "the caller's limits do not allow more"
	switch a.By {
	case authz.LimitRate:
		text = "the caller sends more taps a second than its limit"
	case authz.LimitInFlight:
		text = "the caller has as many taps in flight as its limit"
	case authz.LimitStreams:
		text = "the caller has as many streams open as its limit"
	case authz.LimitNone:
	}
	return &refusal{code: codes.ResourceExhausted, text: text, after: a.RetryAfter}
}

// overloaded is the refusal when the service has as much to do as it can.
func overloaded(after time.Duration) *refusal {
	return &refusal{code: codes.ResourceExhausted, text: "the service has as many taps in flight as it can do in time", after: after}
}

// milliseconds are those of a delay, rounded up: sooner would be refused again.
func milliseconds(d time.Duration) uint32 {
	return uint32(min((d+time.Millisecond-1)/time.Millisecond, 1<<30)) //nolint:gosec // bounded
}
