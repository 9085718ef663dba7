package server

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/state/store"
)

// Limits of a stream's messages, part of the API's contract.
const maxTapsInMessage = 256

const (
	sweepEvery    = 50 * time.Millisecond // how often a stream looks whether it is idle
	idleSweeps    = 4                     // looks without a tap after which a draining stream ends
	standingEvery = 4                     // looks between two at the caller's rights
)

// A stream is one VerifyCryptograms call. Two goroutines of its own work on
// it: one receives, parses and submits; the other, the handler's, sends.
// Between them taps are in the hands of the pool and of the journal, whose
// goroutines hand them back through Completed and answered.
type stream struct {
	e      *engine
	caller *caller         // the receiver's
	watch  watcher         // the sender's
	ctx    context.Context //nolint:containedctx // a stream is the call

	mu       sync.Mutex
	room     *sync.Cond      // slots grew, or closed was set
	slots    int             // taps that may still be taken; back with the sent result
	open     map[string]*tap // taken and without a decision, by request id
	ready    []*tap          // decided or refused, to be sent
	closed   bool            // nothing more is taken
	received bool            // since the last sweep
	spare    []*tap          // memory for ready

	wake    chan struct{} // capacity 1: ready or closed changed
	recvErr error         // why receiving ended, under mu; nil is the client's end of stream
	ended   bool          // receiving ended, under mu
	soonest time.Time     // no tap in open has to be answered earlier; zero is none
	lost    bool          // the receiver failed between taking and submitting, under mu
}

func newStream(ctx context.Context, e *engine, caller *caller) *stream {
	s := &stream{
		e: e, caller: caller, watch: watcher{caller: *caller}, ctx: ctx,
		slots: e.tapsInStream, open: make(map[string]*tap),
		wake: make(chan struct{}, 1),
	}
	s.room = sync.NewCond(&s.mu)
	return s
}

// VerifyCryptograms verifies a stream of taps.
func (s *service) VerifyCryptograms(g tapsealv1.CryptogramService_VerifyCryptogramsServer) error {
	c, err := callerOf(g.Context())
	if err != nil {
		return err
	}
	who, err := c.principal(time.Now())
	if err != nil {
		return err
	}
	if !who.OpenStream() {
		a := authz.Admission{By: authz.LimitStreams, RetryAfter: authz.RetryWhenFull}
		s.e.metrics.Limited(a.By, 1)
		s.e.metrics.Refused(codes.ResourceExhausted)
		return limited(a).status()
	}
	defer who.CloseStream()
	st := newStream(g.Context(), s.e, c)
	stop := context.AfterFunc(st.ctx, st.close)
	defer stop()
	s.e.metrics.StreamOpened()
	defer s.e.metrics.StreamClosed()
	go st.receive(g)
	return st.send(g)
}

// close stops taking taps. Those taken are finished and recorded all the same.
func (s *stream) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.room.Broadcast()
	s.signal()
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// receive takes taps until the client, the context or the server ends it.
func (s *stream) receive(g tapsealv1.CryptogramService_VerifyCryptogramsServer) {
	err := s.receiveAll(g)
	s.mu.Lock()
	s.ended, s.closed = true, true
	if !errors.Is(err, io.EOF) {
		s.recvErr = err
	}
	s.mu.Unlock()
	s.signal()
}

func (s *stream) receiveAll(g tapsealv1.CryptogramService_VerifyCryptogramsServer) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = s.e.panicked(v)
			s.mu.Lock()
			s.lost = true
			s.mu.Unlock()
		}
	}()
	var in intake
	for {
		m, err := g.Recv()
		if err != nil {
			return err
		}
		if _, err := s.caller.principal(time.Now()); err != nil {
			return err
		}
		if err := decoded(m); err != nil {
			return err
		}
		taps := m.GetTaps()
		if len(taps) == 0 {
			return status.Error(codes.InvalidArgument, "taps: at least one is required")
		}
		s.e.metrics.StreamMessage(len(taps))
		if extra := len(taps) - maxTapsInMessage; extra > 0 {
			s.refuseAll(taps[maxTapsInMessage:])
			taps = taps[:maxTapsInMessage]
		}
		for len(taps) > 0 {
			n := s.takeSlots(len(taps))
			if n == 0 {
				return status.Error(codes.Unavailable, "the service is shutting down: taps without a result were not looked at")
			}
			if err := s.submit(taps[:n], &in); err != nil {
				return err
			}
			taps = taps[n:]
		}
	}
}

// refuseAll answers the taps that a message may not hold.
func (s *stream) refuseAll(taps []*tapsealv1.Tap) {
	for _, m := range taps {
		if s.takeSlots(1) == 0 {
			return
		}
		s.refuse([]*tapsealv1.Tap{m}, errTooManyTaps)
	}
}

// refuse answers taps that are not looked at, and for which there are slots.
func (s *stream) refuse(taps []*tapsealv1.Tap, why *refusal) {
	if len(taps) == 0 {
		return
	}
	refused := make([]*tap, len(taps))
	for i, m := range taps {
		refused[i] = s.e.get()
		refused[i].requestID, refused[i].refused = m.GetRequestId(), why
	}
	s.e.metrics.RefusedTaps(why.code, len(taps))
	s.deliver(refused)
}

// takeSlots waits for room in this stream, so that a client which does not
// read its results stops being read from. It returns 0 once the stream is closed.
func (s *stream) takeSlots(want int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.slots == 0 && !s.closed {
		s.room.Wait()
	}
	if s.closed {
		return 0
	}
	n := min(want, s.slots)
	s.slots -= n
	s.received = true
	return n
}

// intake is the receiver's memory, reused from message to message.
type intake struct {
	read reading

	waited   time.Duration // at the gate lately
	lastWait time.Time     // when that ended
	fresh    []*tap
	refused  []*tap
	decided  []*tap
	calls    []*hsm.Call
}

// place waits for places at the gate, but not more than half of the time: in an
// overload message after message would wait, and what the caller hears of it
// would be long out of date.
func (in *intake) place(ctx context.Context, e *engine, want int) int {
	begun := time.Now()
	in.waited = max(0, in.waited-begun.Sub(in.lastWait))
	n := e.gate.take(ctx, want, e.patience-in.waited)
	in.lastWait = time.Now()
	in.waited += in.lastWait.Sub(begun)
	return n
}

// submit takes taps, for which there are slots, through the caller's limits and
// the gate to the pool. Their time runs from here.
func (s *stream) submit(taps []*tapsealv1.Tap, in *intake) error {
	now := time.Now()
	who, err := s.caller.principal(now)
	if err != nil {
		return err
	}
	a := who.Admit(now, len(taps))
	owed := a.Taps // to the caller's limits, by this function
	defer func() { who.Release(owed) }()
	if a.Taps < len(taps) {
		s.e.metrics.Limited(a.By, len(taps)-a.Taps)
		s.refuse(taps[a.Taps:], limited(a))
		taps = taps[:a.Taps]
	}
	for len(taps) > 0 {
		n := in.place(s.ctx, s.e, len(taps))
		if n == 0 {
			who.Release(owed) // before the caller hears of it, and may try again
			owed = 0
			if s.ctx.Err() == nil { // else the caller has gone: nobody waits for these
				s.refuse(taps, overloaded(s.e.patience))
			}
			return nil
		}
		owed -= n // submitChunk owes these
		s.submitChunk(taps[:n], who, now, in)
		taps = taps[n:]
	}
	return nil
}

// submitChunk takes taps, which have places, to the pool. It sees to it that
// the places and the caller's limits get back what does not arrive there.
func (s *stream) submitChunk(taps []*tapsealv1.Tap, who *authz.Principal, started time.Time, in *intake) {
	placed := 0
	defer func() { // of the refused, and after a panic
		s.e.gate.release(len(taps) - placed)
		who.Release(len(taps) - placed)
	}()
	entered := time.Now()
	latest, _ := s.ctx.Deadline()
	in.fresh, in.refused, in.decided, in.calls = in.fresh[:0], in.refused[:0], in.decided[:0], in.calls[:0]
	for _, m := range taps {
		t := s.e.get()
		t.caller, t.who, t.method, t.started, t.entered = s.caller.id.uri, who, audit.MethodStream, started, entered
		t.requestID = m.GetRequestId()
		if t.refused = s.prepare(m, latest, t, in); t.refused != nil {
			in.refused = append(in.refused, t)
		} else {
			in.fresh = append(in.fresh, t)
		}
	}
	s.enter(in)
	for _, t := range in.fresh {
		if t.NeedsHSM {
			t.Call.Sink, t.Op.Sink = s, s
			in.calls = append(in.calls, &t.Call)
		} else {
			in.decided = append(in.decided, t)
		}
	}
	s.countRefused(in.refused)
	s.deliver(in.refused)
	s.e.decided(in.decided, s)
	placed = len(in.decided)
	if len(in.calls) > 0 {
		s.e.pool.Submit(in.calls...)
		placed += len(in.calls)
	}
}

// prepare parses a tap and asks the policy for its key set.
func (s *stream) prepare(m *tapsealv1.Tap, latest time.Time, t *tap, in *intake) error {
	vt, err := in.read.read(m)
	if err != nil {
		return err
	}
	vt.Caller = t.who.Name()
	if err := s.e.rules.Prepare(vt, t.started, latest, &t.Case); err != nil {
		return err
	}
	if !t.who.Allows(s.caller.method, t.Resolution.KeySet) {
		return errKeySet
	}
	return nil
}

func (s *stream) countRefused(taps []*tap) {
	denied := 0
	for _, t := range taps {
		if errors.Is(t.refused, errKeySet) {
			denied++
		}
	}
	s.e.metrics.RefusedTaps(codes.PermissionDenied, denied)
	s.e.metrics.RefusedTaps(codes.InvalidArgument, len(taps)-denied)
}

// enter enters the fresh taps under their ids. One whose id is in flight moves
// to the refused: its result could not be told from the other's.
func (s *stream) enter(in *intake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := in.fresh[:0]
	for _, t := range in.fresh {
		if _, taken := s.open[t.requestID]; taken {
			t.refused = errDuplicateID
			in.refused = append(in.refused, t)
			continue
		}
		s.open[t.requestID] = t
		if s.soonest.IsZero() || t.AnswerBy.Before(s.soonest) {
			s.soonest = t.AnswerBy
			s.signal() // the sender's timer is set for a later one, or for none
		}
		kept = append(kept, t)
	}
	in.fresh = kept
}

var errDuplicateID = errors.New("request_id: is in flight on this stream already")

// Completed implements hsm.Sink.
func (s *stream) Completed(calls []*hsm.Call) { s.e.completed(calls, s) }

// Settled implements store.Sink.
func (s *stream) Settled(ops []*store.Op) { s.e.settled(ops, s) }

// answered implements audience.
func (s *stream) answered(taps []*tap) {
	s.mu.Lock()
	for _, t := range taps {
		if t.late {
			s.e.put(t)
			continue
		}
		delete(s.open, t.requestID)
		s.ready = append(s.ready, t)
	}
	s.mu.Unlock()
	s.signal()
}

// deliver hands over taps that were refused.
func (s *stream) deliver(taps []*tap) {
	if len(taps) == 0 {
		return
	}
	s.mu.Lock()
	s.ready = append(s.ready, taps...)
	s.mu.Unlock()
	s.signal()
}

// idleFor counts the looks at the stream, one in sweepEvery, at which nothing
// was on it.
func (s *stream) idleFor(idle int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := !s.received && len(s.open) == 0 && len(s.ready) == 0
	s.received = false
	if quiet {
		return idle + 1
	}
	return 0
}

// sweepLate answers UNKNOWN for taps whose answer has to leave, and returns how
// long it is until the next such moment.
func (s *stream) sweepLate(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.soonest.IsZero() {
		return time.Hour
	}
	if left := s.soonest.Sub(now); left > 0 {
		return left
	}
	s.soonest = time.Time{}
	for id, t := range s.open {
		if !now.Before(t.AnswerBy) {
			t.late = true
			delete(s.open, id)
			s.ready = append(s.ready, s.e.unanswered(t))
		} else if s.soonest.IsZero() || t.AnswerBy.Before(s.soonest) {
			s.soonest = t.AnswerBy
		}
	}
	if s.soonest.IsZero() {
		return time.Hour
	}
	return s.soonest.Sub(now)
}

// takeReady returns what can be sent, or whether nothing will follow any more.
func (s *stream) takeReady() (taps []*tap, finished bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) > 0 {
		taps = s.ready
		s.ready, s.spare = s.spare[:0], nil
		return taps, false
	}
	switch {
	case !s.closed:
		return nil, false
	case s.ctx.Err() != nil:
		return nil, true // nobody reads; what was taken is recorded all the same
	case s.lost:
		return nil, len(s.open) == 0
	}
	return nil, s.slots == s.e.tapsInStream
}

// sent gives back taps, whose results are on their way, and their slots.
func (s *stream) sent(taps []*tap) {
	n := len(taps)
	for _, t := range taps {
		s.e.put(t)
	}
	clear(taps)
	s.mu.Lock()
	s.slots += n
	s.spare = taps[:0]
	s.mu.Unlock()
	s.room.Signal()
}
