package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

const (
	canaryEvery    = time.Second           // while serving
	canaryOften    = 50 * time.Millisecond // while not: so that being ready is noticed
	canaryTimeout  = 800 * time.Millisecond
	journalPenalty = 2 * time.Second // not serving after a record was not taken
)

// watchHealth keeps the health service's answer true until ctx ends: SERVING
// means that a worker has just computed a canary under a key in the token, and
// that decisions can be recorded.
func (e *engine) watchHealth(ctx context.Context, h *health.Server, serving func()) {
	was := false
	for {
		err := e.healthy(ctx)
		if ctx.Err() != nil {
			return
		}
		if now := err == nil; now != was {
			was = now
			e.announce(h, err)
			if now && serving != nil {
				serving()
				serving = nil
			}
		}
		wait := canaryOften
		if was {
			wait = canaryEvery
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (e *engine) healthy(ctx context.Context) error {
	if e.journalFailing() {
		return errJournal
	}
	if !e.store.Stats().Reachable {
		return errState
	}
	if err := e.checkSubjects(ctx); err != nil {
		return err
	}
	canary, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	err := e.pool.Health(canary)
	if err != nil && e.pool.Ready() && time.Since(time.Unix(0, e.matchedAt.Load())) < canaryEvery {
		// The canary waits its turn behind the taps. One of them matched just
		// now, which proves a key as well: this is load, and taking the
		// service away under load would only move it.
		return nil
	}
	return err
}

var (
	errState      = errors.New("the state of tokens cannot be reached")
	errNoSubjects = errors.New("the workers hold no subject key: the manifest needs a key set whose use is subject-hash")
)

// journalFailing reports a record that was not taken a short while ago.
func (e *engine) journalFailing() bool {
	at := e.journalFailedAt.Load()
	return at != 0 && time.Since(time.Unix(0, at)) < journalPenalty
}

func (e *engine) announce(h *health.Server, err error) {
	state := healthpb.HealthCheckResponse_SERVING
	if err != nil {
		state = healthpb.HealthCheckResponse_NOT_SERVING
		e.log.Warn("not serving", "cause", err)
	} else {
		e.log.Info("serving")
	}
	h.SetServingStatus("", state)
	h.SetServingStatus(tapsealv1.CryptogramService_ServiceDesc.ServiceName, state)
	e.metrics.Serving(err == nil)
}
