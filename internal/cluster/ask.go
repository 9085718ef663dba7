package cluster

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

const (
	// tapTimeoutMS is what a request gives the service.
	tapTimeoutMS = 1000
	// answerWithin is what the caller waits for it.
	answerWithin = 5 * time.Second
	// tapsInMessage of a stream.
	tapsInMessage = 64
	// atOnce are the unary calls at one time of one asker.
	atOnce = 16
)

// An asker sends requests to the daemons, on a stream to each, or by unary
// calls. It is for one goroutine.
type asker struct {
	daemons []*Daemon
	o       *Oracle
	streams map[int]*openStream
}

type openStream struct {
	tapsealv1.CryptogramService_VerifyCryptogramsClient
	cancel context.CancelFunc
}

func newAsker(daemons []*Daemon, o *Oracle) *asker {
	return &asker{daemons: daemons, o: o, streams: map[int]*openStream{}}
}

func (a *asker) close() {
	for _, s := range a.streams {
		s.cancel()
	}
}

// tapOf is the request's message. All requests of a cryptogram have the same
// content, and only their ids differ.
func tapOf(r *Request) (*tapsealv1.Tap, error) {
	t, err := r.of.tap()
	if err != nil {
		return nil, err
	}
	t.RequestId, t.TimeoutMs = r.ID, tapTimeoutMS
	return t, nil
}

// taps are the messages of requests, of which neighbours may be about the same
// cryptogram.
func (a *asker) taps(requests []*Request) []*tapsealv1.Tap {
	taps := make([]*tapsealv1.Tap, len(requests))
	for i, r := range requests {
		if i > 0 && requests[i-1].of == r.of {
			taps[i] = proto.CloneOf(taps[i-1])
			taps[i].RequestId = r.ID
		} else if t, err := tapOf(r); err == nil {
			taps[i] = t
		} else {
			a.o.violated("making a tap: %v", err)
			taps[i] = &tapsealv1.Tap{RequestId: r.ID}
		}
	}
	return taps
}

// stream sends requests to one daemon and notes what comes back. Each attempt
// gets one answer, or none if the stream breaks.
func (a *asker) stream(ctx context.Context, daemon int, s *openStream, requests []*Request) (broken bool) {
	open := make(map[string]*Request, len(requests))
	for _, r := range requests {
		a.o.begin(r)
		open[r.ID] = r
	}
	timer := time.AfterFunc(answerWithin, s.cancel)
	defer timer.Stop()
	taps := a.taps(requests)
	for len(taps) > 0 {
		n := min(len(taps), tapsInMessage)
		if err := s.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: taps[:n]}); err != nil {
			break // Recv says why
		}
		taps = taps[n:]
	}
	for len(open) > 0 {
		m, err := s.Recv()
		if err != nil {
			for _, r := range open {
				a.o.unanswered(r, status.Code(err))
			}
			return true
		}
		for _, result := range m.GetResults() {
			r := open[result.GetRequestId()]
			if r == nil {
				a.o.violated("request %s: %s answered it twice, or unasked", result.GetRequestId(), a.daemons[daemon].Name)
				continue
			}
			delete(open, r.ID)
			if e := result.GetError(); e != nil {
				a.o.unanswered(r, codes.Code(e.GetCode()))
			} else {
				a.o.answered(r, result.GetVerification())
			}
		}
	}
	return ctx.Err() != nil
}

// ask sends requests to one daemon, all at once, and waits for what comes back.
func (a *asker) ask(ctx context.Context, daemon int, requests []*Request, s *openStream) (broken bool) {
	if s != nil {
		return a.stream(ctx, daemon, s, requests)
	}
	for _, r := range requests {
		a.o.begin(r)
	}
	client, next := a.daemons[daemon].client, make(chan *Request)
	var group sync.WaitGroup
	for range min(atOnce, len(requests)) {
		group.Go(func() {
			for r := range next {
				a.unary(ctx, client, r)
			}
		})
	}
	for _, r := range requests {
		next <- r
	}
	close(next)
	group.Wait()
	return false
}

func (a *asker) unary(ctx context.Context, client tapsealv1.CryptogramServiceClient, r *Request) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	tap, err := tapOf(r)
	if err != nil {
		a.o.violated("making a tap: %v", err)
		return
	}
	out, err := client.VerifyCryptogram(ctx, &tapsealv1.VerifyCryptogramRequest{Tap: tap})
	if err != nil {
		a.o.unanswered(r, status.Code(err))
		return
	}
	a.o.answered(r, out.GetVerification())
}

// askAll sends to each daemon what is for it, at the same time.
func (a *asker) askAll(ctx context.Context, byDaemon [][]*Request, unary bool) {
	var group sync.WaitGroup
	broken := make([]bool, len(byDaemon))
	for d, requests := range byDaemon {
		if len(requests) == 0 {
			continue
		}
		s := a.streams[d]
		if s == nil && !unary {
			s = a.open(ctx, d)
			if s == nil {
				continue // the daemon is away, and nothing was sent
			}
		}
		if unary {
			s = nil
		}
		group.Go(func() { broken[d] = a.ask(ctx, d, requests, s) })
	}
	group.Wait()
	for d, bad := range broken {
		if bad {
			a.streams[d].cancel()
			delete(a.streams, d)
		}
	}
}

func (a *asker) open(ctx context.Context, daemon int) *openStream {
	ctx, cancel := context.WithCancel(ctx)
	s, err := a.daemons[daemon].client.VerifyCryptograms(ctx)
	if err != nil {
		cancel()
		return nil
	}
	a.streams[daemon] = &openStream{s, cancel}
	return a.streams[daemon]
}

// settle asks until every request has its answer, under the same id each time
// and at the next daemon each time, or until patience is over.
func (a *asker) settle(ctx context.Context, requests []*Request, at func(r *Request) int, unary bool) {
	end, pause := time.Now().Add(patience), 20*time.Millisecond
	for round := 0; len(requests) > 0 && time.Now().Before(end); round++ {
		byDaemon := make([][]*Request, len(a.daemons))
		for _, r := range requests {
			d := (at(r) + round) % len(a.daemons)
			byDaemon[d] = append(byDaemon[d], r)
		}
		a.askAll(ctx, byDaemon, unary)
		var left []*Request
		for _, r := range requests {
			if !r.settled() {
				left = append(left, r)
			}
		}
		if requests = left; len(requests) > 0 {
			sleep(ctx, pause)
			pause = min(2*pause, 300*time.Millisecond)
		}
	}
}
