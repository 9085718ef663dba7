package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// announceStart says NOT_SERVING until the first canary.
func (e *engine) announceStart(h *health.Server) {
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	h.SetServingStatus(tapsealv1.CryptogramService_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_NOT_SERVING)
	e.metrics.Serving(false)
}

// streamGrace is how long streams go on after the stop began, so that a caller
// who was about to finish one can. Callers cannot see a stop on a stream, so
// longer would only be later.
const streamGrace = 500 * time.Millisecond

// stop drains and closes. At first streams go on, but for idle ones; then they
// finish what they have taken and end with UNAVAILABLE, so every tap that was
// looked at has its answer. At the end of the drain time connections are cut.
func (d *daemon) stop(atOnce bool) error {
	d.deps.Log.Info("draining")
	d.health.Shutdown()
	d.engine.metrics.Serving(false)
	close(d.engine.draining)
	graceful := make(chan struct{})
	d.background.Go(func() {
		d.data.GracefulStop()
		if d.admin != nil {
			d.admin.GracefulStop()
		}
		close(graceful)
	})
	end := time.Now().Add(d.cfg.DrainTimeout())
	if atOnce || !waitFor(graceful, min(streamGrace, d.cfg.DrainTimeout()/2)) {
		close(d.engine.closing)
		if !waitFor(graceful, time.Until(end)) {
			d.deps.Log.Warn("requests were cut off at the end of the drain time")
			d.data.Stop()
			if d.admin != nil {
				d.admin.Stop()
			}
			<-graceful
		}
	}
	err := d.closeResources()
	d.background.Wait()
	d.deps.Log.Info("stopped")
	return err
}

func waitFor(done <-chan struct{}, atMost time.Duration) bool {
	t := time.NewTimer(atMost)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// closeResources closes whatever open opened, in the order in which taps flow:
// what the pool still holds comes back, is decided and recorded before state and
// journal close.
func (d *daemon) closeResources() error {
	var errs []error
	if d.web != nil { // closes its listener, if it serves by now
		errs = append(errs, d.web.Close())
	}
	for _, l := range []net.Listener{d.listeners.data, d.listeners.admin, d.listeners.metrics} {
		if l == nil {
			continue
		}
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.pool != nil {
		d.pool.Close()
	}
	if d.engine != nil && d.engine.gate != nil {
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		defer cancel()
		if !d.engine.gate.waitEmpty(ctx) {
			errs = append(errs, errors.New("closing: taps are still being recorded"))
		}
	}
	if d.store != nil {
		d.store.Close()
	}
	if d.state != nil {
		if err := d.state.Close(); err != nil {
			errs = append(errs, fmt.Errorf("closing the state: %w", err))
		}
	}
	d.records.close()
	if d.journal != nil {
		if err := d.journal.Close(); err != nil {
			errs = append(errs, fmt.Errorf("closing the journal: %w", err))
		}
	}
	if d.certificates != nil { // after the state, whose credentials may come from the same Vault
		d.certificates.close()
	}
	return errors.Join(errs...)
}
