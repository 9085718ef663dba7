package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

func (l *load) ended(err error) bool { return err == io.EOF } //nolint:errorlint // Recv returns it bare

// latencies of one run.
type latencies struct {
	rate float64 // answers a second
	all  []time.Duration
}

func (r *latencies) quantile(q float64) time.Duration {
	if len(r.all) == 0 {
		return 0
	}
	return r.all[min(int(q*float64(len(r.all))), len(r.all)-1)]
}

// errSupply ends a run whose taps are all sent.
var errSupply = errors.New("more taps were sent than made")

func (l *load) one(ctx context.Context) error {
	t := &tapsealv1.Tap{}
	if !l.taps.take(t, &tapsealv1.Tap_Field55{}) {
		return errSupply
	}
	a, err := l.client.VerifyCryptogram(ctx, &tapsealv1.VerifyCryptogramRequest{Tap: t})
	if err != nil {
		return err
	}
	if v := a.GetVerification().GetVerdict(); v != tapsealv1.Verdict_VERDICT_VALID {
		return fmt.Errorf("a right tap was answered %v", a.GetVerification())
	}
	return nil
}

// unary lets callers call one after the other, each without a pause.
func (l *load) unary(ctx context.Context, callers int, d time.Duration) (*latencies, error) {
	var (
		mu    sync.Mutex
		all   []time.Duration
		first error
		wg    sync.WaitGroup
	)
	start := time.Now()
	for range callers {
		wg.Go(func() {
			var own []time.Duration
			var err error
			for time.Since(start) < d && err == nil {
				t := time.Now()
				if err = l.one(ctx); errors.Is(err, errSupply) {
					err = nil
					break
				}
				own = append(own, time.Since(t))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return summarise(all, time.Since(start)), first
}

// paced starts calls at a rate, whatever has been answered: the latency counts
// from when a call was due, so a stall is seen by all that it holds up.
func (l *load) paced(ctx context.Context, rate float64, d time.Duration) (*latencies, error) {
	n := int(rate * d.Seconds())
	all := make([]time.Duration, n)
	errs := make(chan error, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		wg.Go(func() {
			if err := l.one(ctx); err != nil {
				errs <- err
			}
			all[i] = time.Since(due)
		})
	}
	wg.Wait()
	r := summarise(all, time.Since(start))
	select {
	case err := <-errs:
		return r, err
	default:
		return r, nil
	}
}

func summarise(all []time.Duration, took time.Duration) *latencies {
	slices.Sort(all)
	return &latencies{rate: float64(len(all)) / took.Seconds(), all: all}
}
