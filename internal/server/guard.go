package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

var errUndecodable = errors.New("request: is not a message of this method")

// undecodable turns gRPC's own answer to bytes that are no message, INTERNAL,
// into what it is: the caller's fault.
func undecodable(err error) error {
	if status.Code(err) == codes.Internal {
		return invalid(errUndecodable)
	}
	return err
}

// serviceDesc is the generated description with undecodable around the
// decoding of unary requests.
func serviceDesc() *grpc.ServiceDesc {
	d := tapsealv1.CryptogramService_ServiceDesc
	d.Methods = append([]grpc.MethodDesc(nil), d.Methods...)
	for i := range d.Methods {
		inner := d.Methods[i].Handler
		d.Methods[i].Handler = func(srv any, ctx context.Context, decode func(any) error, ic grpc.UnaryServerInterceptor) (any, error) {
			return inner(srv, ctx, func(m any) error { return undecodable(decode(m)) }, ic)
		}
	}
	return &d
}

// recoverUnary answers INTERNAL for a handler that panics.
func (e *engine) recoverUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, e.panicked(v)
		}
	}()
	return h(ctx, req)
}

// recoverStream answers INTERNAL for a stream handler that panics.
func (e *engine) recoverStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = e.panicked(v)
		}
	}()
	return h(srv, ss)
}

// panicked logs where, not what: the value of a panic, and the arguments that
// a stack trace prints, can hold cardholder data.
func (e *engine) panicked(v any) error {
	e.metrics.Panicked()
	e.log.Error("a handler panicked", "type", fmt.Sprintf("%T", v), "at", callers())
	return status.Error(codes.Internal, "internal error")
}

// callers names the functions on the stack and their lines, without arguments.
func callers() string {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var b strings.Builder
	for {
		f, more := frames.Next()
		fmt.Fprintf(&b, "%s:%d ", f.Function, f.Line)
		if !more {
			return strings.TrimSpace(b.String())
		}
	}
}
