package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tapseal/tapseal/internal/authz"
)

// guardEvery is how often an idle stream's caller is asked for again.
const guardEvery = time.Second

// A guardedStream is one of a handler that knows nothing of callers, such as
// the health service's Watch: it ends with its caller's rights, with the
// caller's certificate, and when the certificate is revoked.
type guardedStream struct {
	grpc.ServerStream
	e      *engine
	ctx    context.Context //nolint:containedctx // a stream is the call
	lose   context.CancelCauseFunc
	caller caller // copied for each look: those are made by several goroutines
}

// guardStream runs a handler on a guarded stream, which counts against the
// streams of a caller that has limits.
func (e *engine) guardStream(c *caller, srv any, ss grpc.ServerStream, h grpc.StreamHandler) error {
	who, err := c.principal(time.Now())
	if err != nil {
		return err
	}
	if who.Limits() != (authz.Limits{}) {
		if !who.OpenStream() {
			a := authz.Admission{By: authz.LimitStreams, RetryAfter: authz.RetryWhenFull}
			e.metrics.Limited(a.By, 1)
			e.metrics.Refused(codes.ResourceExhausted)
			return limited(a).status()
		}
		defer who.CloseStream()
	}
	ctx, lose := context.WithCancelCause(ss.Context())
	defer lose(nil)
	g := &guardedStream{ServerStream: ss, e: e, ctx: ctx, lose: lose, caller: *c}
	go g.watch()
	err = h(srv, g)
	// What the handler makes of its context's end says less than the reason.
	if ss.Context().Err() == nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Context implements grpc.ServerStream. It ends with the caller's rights.
func (g *guardedStream) Context() context.Context { return g.ctx }

// look asks whether the caller may still have the stream.
func (g *guardedStream) look() error {
	c := g.caller
	_, err := c.principal(time.Now())
	if err != nil {
		g.lose(err)
	}
	return err
}

func (g *guardedStream) watch() {
	t := time.NewTicker(guardEvery)
	defer t.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-t.C:
			if g.look() != nil {
				return
			}
		}
	}
}

// RecvMsg implements grpc.ServerStream. A message that came after the rights
// were lost is not handed on.
func (g *guardedStream) RecvMsg(m any) error {
	if err := g.wait(func() error { return g.ServerStream.RecvMsg(m) }); err != nil {
		return err
	}
	return g.look()
}

// SendMsg implements grpc.ServerStream.
func (g *guardedStream) SendMsg(m any) error {
	if err := g.look(); err != nil {
		return err
	}
	return g.wait(func() error { return g.ServerStream.SendMsg(m) })
}

// wait runs what blocks on the client, and stops waiting when the rights are
// lost. What it leaves behind ends at once: gRPC ends the stream itself as soon
// as the handler has returned.
func (g *guardedStream) wait(do func() error) error {
	done := make(chan error, 1)
	go func() {
		err := status.Error(codes.Internal, "internal error")
		defer func() {
			if v := recover(); v != nil {
				err = g.e.panicked(v)
			}
			done <- err
		}()
		err = do()
	}()
	select {
	case err := <-done:
		return err
	case <-g.ctx.Done():
		return lost(g.ctx)
	}
}

// lost is the status of a stream whose context is over.
func lost(ctx context.Context) error {
	cause := context.Cause(ctx)
	if _, ok := status.FromError(cause); ok {
		return cause
	}
	return status.FromContextError(ctx.Err()).Err()
}
