package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	grpctap "google.golang.org/grpc/tap"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/authz"
)

// A caller is who makes a call, and which one. It is for one goroutine.
type caller struct {
	id     *identity
	view   authz.Caller
	method authz.MethodID

	name    string          // of its principal when the call was let in; empty before
	records *refusedJournal // of what it is refused later; nil is none
}

type callerKey struct{}

// A porter asks, before anything of a call is read, who it is and whether the
// policy has a row for it.
type porter struct {
	live    *authz.Live
	refused func(codes.Code)
	log     *rationed
	records *refusedJournal
}

// admit is gRPC's first look at a call. Its context carries the caller.
func (p *porter) admit(ctx context.Context, info *grpctap.Info) (context.Context, error) {
	c, err := p.caller(ctx, info.FullMethodName)
	if err == nil {
		var who *authz.Principal
		if who, err = c.principal(time.Now()); err == nil {
			c.name = who.Name()
		}
	}
	if err != nil {
		p.refused(status.Code(err))
		p.trace(c, status.Code(err))
		p.records.refusedCall(c, err)
		return ctx, err
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

// trace logs who was refused what: somebody with a good certificate who tries
// what he may not is worth a look. A method that nobody knows is "none", since
// its name is the caller's own text.
func (p *porter) trace(c *caller, code codes.Code) {
	if c == nil || c.id.uri == "" {
		return
	}
	method := c.method.String()
	p.log.warn("call|"+c.id.uri+"|"+method+"|"+code.String(), "a call was refused",
		"caller", c.id.uri, "method", method, "code", code.String())
}

// caller is who calls what, also if he may not.
func (p *porter) caller(ctx context.Context, fullMethod string) (*caller, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errNoCaller
	}
	info, ok := from.AuthInfo.(*connInfo)
	if !ok || info.id == nil {
		return nil, errNoCaller
	}
	method, ok := authz.MethodByName(fullMethod)
	c := &caller{id: info.id, view: p.live.Caller(info.id.uri), method: method, records: p.records}
	if !ok {
		return c, errNotAllowed // deny by default, also what nobody knows
	}
	return c, nil
}

// Messages name nothing of the policy: who asks knows who he is.
var (
	errNoCaller   = status.Error(codes.Unauthenticated, "the connection has no client certificate")
	errStranger   = status.Error(codes.Unauthenticated, "the URI name of the client certificate is not in the policy")
	errNotAllowed = status.Error(codes.PermissionDenied, "the policy does not allow this method")
)

// principal is who the caller is now, if the certificate still stands and the
// policy in force still has a row for the method. Ask at each call and message:
// that is how a revocation or a reload reaches what is running.
func (c *caller) principal(now time.Time) (*authz.Principal, error) {
	if err := c.id.standing(now); err != nil {
		return nil, err
	}
	p, ok := c.view.Principal()
	if !ok {
		return nil, errStranger
	}
	if !p.MayCall(c.method) {
		return nil, errNotAllowed
	}
	return p, nil
}

// known is the name of the principal, also of one who may not call.
func (c *caller) known() string {
	if c.name == "" {
		if who, ok := c.view.Principal(); ok {
			return who.Name()
		}
	}
	return c.name
}

// callerOf is the caller whom the porter let in. Without one nothing goes on.
func callerOf(ctx context.Context) (*caller, error) {
	c, ok := ctx.Value(callerKey{}).(*caller)
	if !ok {
		return nil, errNoCaller
	}
	return c, nil
}

// requireCaller is the second lock: no handler runs for a call that did not
// come through the porter for this very method.
func requireCaller(ctx context.Context, fullMethod string) error {
	c, err := callerOf(ctx)
	if err != nil {
		return err
	}
	if id, ok := authz.MethodByName(fullMethod); !ok || id != c.method {
		return errNotAllowed
	}
	return nil
}

func requireCallerUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := requireCaller(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	resp, err := h(ctx, req)
	if err != nil {
		recordRefusal(ctx, err)
	}
	return resp, err
}

// recordRefusal puts a handler's refusal on record, such as that of a key set.
func recordRefusal(ctx context.Context, err error) {
	if c, none := callerOf(ctx); none == nil {
		c.records.refusedCall(c, err)
	}
}

// recordDenied puts on record how many taps of a stream were refused for their
// key set: in the stream they are no error.
func (c *caller) recordDenied(taps []*tap) {
	n := 0
	for _, t := range taps {
		if t.refused != nil && errors.Is(t.refused, errKeySet) {
			n++
		}
	}
	if n == 0 || c.records == nil {
		return
	}
	name, _ := codeName(errKeySet.code)
	c.records.note(refusedKind{audit.ActionCall, c.id.uri, c.method.String()}, c.name, name+": "+errKeySet.text, n)
}

func (e *engine) requireCallerStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := requireCaller(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	c, err := callerOf(ss.Context())
	if err != nil {
		return err
	}
	if c.method == authz.MethodVerifyCryptograms {
		err = h(srv, ss) // counts and watches itself: it finishes the taps it took
	} else {
		err = e.guardStream(c, srv, ss, h)
	}
	if err != nil {
		recordRefusal(ss.Context(), err)
	}
	return err
}
