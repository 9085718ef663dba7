package server

import (
	"context"
	"fmt"
	"runtime"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

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
