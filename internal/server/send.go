package server

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// maxResultsInMessage is the API's bound; what is ready is sent at once, so a
// message is full only under load.
const maxResultsInMessage = 256

// send sends results until nothing can follow. It is the handler: when it
// returns, the call is over and Recv fails.
func (s *stream) send(g tapsealv1.CryptogramService_VerifyCryptogramsServer) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	late := time.NewTimer(time.Hour)
	defer late.Stop()
	defer s.close()
	closing, idle := s.e.closing, 0
	out := newOutbox()
	for {
		taps, finished := s.takeReady()
		if finished {
			return s.result()
		}
		if err := s.sendAll(g, taps, out); err != nil {
			return err
		}
		if len(taps) > 0 {
			continue
		}
		wait := s.sweepLate(time.Now())
		if s.hasReady() {
			continue
		}
		late.Reset(wait)
		select {
		case <-s.wake:
		case <-late.C:
		case <-closing:
			closing = nil
			s.close()
		case now := <-tick.C:
			if err := s.watch.look(now); err != nil {
				return err
			}
			idle = s.idleFor(idle)
			if idle >= idleSweeps && isClosed(s.e.draining) {
				s.close()
			}
		}
	}
}

// A watcher ends a stream whose caller has lost its rights, also while no
// message comes.
type watcher struct {
	caller caller
	looks  int
}

func (w *watcher) look(now time.Time) error {
	if w.looks++; w.looks%standingEvery != 0 {
		return nil
	}
	_, err := w.caller.principal(now)
	return err
}

func (s *stream) hasReady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ready) > 0
}

// result is the status of the call once every tap that was taken is answered.
func (s *stream) result() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return status.FromContextError(s.ctx.Err()).Err()
	case s.recvErr != nil:
		return s.recvErr
	case !s.ended:
		return status.Error(codes.Unavailable, "the service is shutting down: taps without a result were not looked at")
	}
	return nil
}

func (s *stream) sendAll(g tapsealv1.CryptogramService_VerifyCryptogramsServer, taps []*tap, out *outbox) error {
	if len(taps) == 0 {
		return nil
	}
	s.caller.recordDenied(taps)
	for rest := taps; len(rest) > 0; {
		n := min(maxResultsInMessage, len(rest))
		if err := g.Send(out.fill(rest[:n])); err != nil {
			return err
		}
		rest = rest[n:]
	}
	s.sent(taps)
	return nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// An outbox is the memory of one response message. gRPC has encoded a message
// when Send returns, so the next one may reuse it.
type outbox struct {
	message tapsealv1.VerifyCryptogramsResponse
	entries []*outboxEntry
}

type outboxEntry struct {
	result       tapsealv1.TapResult
	verified     tapsealv1.TapResult_Verification
	verification tapsealv1.Verification
	failed       tapsealv1.TapResult_Error
	failure      tapsealv1.TapError
}

func newOutbox() *outbox { return &outbox{} }

func (o *outbox) fill(taps []*tap) *tapsealv1.VerifyCryptogramsResponse {
	for len(o.entries) < len(taps) {
		e := &outboxEntry{}
		e.verified.Verification, e.failed.Error = &e.verification, &e.failure
		o.entries = append(o.entries, e)
	}
	o.message.Results = o.message.Results[:0]
	for i, t := range taps {
		e := o.entries[i]
		e.write(t)
		o.message.Results = append(o.message.Results, &e.result)
	}
	return &o.message
}

func (e *outboxEntry) write(t *tap) {
	e.result.RequestId = t.requestID
	if t.refused == nil {
		writeVerification(&e.verification, t)
		e.result.Outcome = &e.verified
		return
	}
	e.failure.Code, e.failure.RetryAfterMs = uint32(codes.InvalidArgument), 0
	if r, ok := t.refused.(*refusal); ok { //nolint:errorlint // set by this package, never wrapped
		e.failure.Code, e.failure.RetryAfterMs = uint32(r.code), milliseconds(r.after)
	}
	e.failure.Message = t.refused.Error()
	e.result.Outcome = &e.failed
}
