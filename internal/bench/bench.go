// Package bench measures the whole product against the bare token, in one run
// on one machine: figures from different runs or machines compare badly.
package bench

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// workers of the service, and processes of the bare loop.
const workers = 2

// measureDirEnv is how workers are asked to leave their counters.
const measureDirEnv = "TAPSEAL_HSM_MEASURE_DIR"

// Options of Run.
type Options struct {
	BinDir  string        // where tapseald and tapseal-hsm are
	Length  time.Duration // of each measurement
	Rounds  int           // of bare loop and service in turn
	Total   int           // verifications before the daemon's memory is read
	Profile string        // file for a CPU profile of the daemon under streamed load; empty: none
	Out     io.Writer
}

// Run measures and prints the table.
func Run(ctx context.Context, o Options) error {
	work, err := os.MkdirTemp("", "tapseal-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	b := &bench{Options: o, dir: filepath.Join(work, "dev"), measure: filepath.Join(work, "counters")}
	if err := os.Mkdir(b.measure, 0o700); err != nil {
		return err
	}
	if b.taps, err = makeTaps(); err != nil {
		return err
	}
	if b.supply, err = newSupply(); err != nil {
		return err
	}
	if err := prepare(ctx, o.BinDir, b.dir); err != nil {
		return err
	}
	for _, stage := range []func(context.Context) error{b.compare, b.memoryAndUnary, b.recycling, b.software} {
		if err := stage(ctx); err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	Options
	dir, measure string
	taps         []tap // of the bare loop
	supply       *supply
	peak         float64 // unary calls a second
}

func (b *bench) row(what, format string, args ...any) {
	_, _ = fmt.Fprintf(b.Out, "%-58s %s\n", what, fmt.Sprintf(format, args...))
}

// with starts the service with settings, and stops it afterwards.
func (b *bench) with(ctx context.Context, set settings, use func(*service, *load) error) error {
	if err := configure(b.dir, set); err != nil {
		return err
	}
	s, err := start(ctx, b.BinDir, b.dir)
	if err != nil {
		return err
	}
	l := &load{client: s.client, taps: b.supply}
	err = b.supply.stock(ctx, 20*tapsInMessage)
	if err == nil {
		_, _, err = l.stream(ctx, 0, 20*tapsInMessage) // warm
	}
	if err == nil {
		err = use(s, l)
	}
	return errors.Join(err, s.stop())
}

// streamed is one measurement of the whole product.
type streamed struct {
	rate                          float64
	cpu, inside                   time.Duration // for one verification
	client, daemon, workersBeside time.Duration // for one verification, parts of cpu - inside
	daemonObjects, workersObjects float64       // for one verification
}

// compare alternates bare loop and service.
func (b *bench) compare(ctx context.Context) error {
	raw, err := encodeTaps(b.taps)
	if err != nil {
		return err
	}
	b.row("profile", "%s, card keys cold, %d cards of the service, %d of the bare loop", profile, tappers, cards)
	var rawRates, rates []float64
	var last streamed
	err = b.with(ctx, settings{recycleAfter: noRecycling, measure: b.measure, profiling: b.Profile != ""}, func(s *service, l *load) error {
		b.row("start to ready, token there", "%.2f s", s.toReady.Seconds())
		for range b.Rounds {
			rate, sum, err := rawLoop(ctx, b.BinDir, b.dir, raw, b.Length)
			if err != nil {
				return err
			}
			rawRates = append(rawRates, rate)
			b.row("bare loop, 2 processes", "%8.0f /s   %.1f µs CPU in PKCS#11 each", rate, perJob(sum.InsideCPUNS, sum.Jobs))
			if last, err = b.streamed(ctx, s, l); err != nil {
				return err
			}
			rates = append(rates, last.rate)
			b.row("streamed, whole product, 2 workers", "%8.0f /s   %.1f µs CPU in PKCS#11 each", last.rate, micro(last.inside))
			b.row("  CPU outside PKCS#11 for one, client included", "%8.1f µs   client %.1f, daemon %.1f, workers %.1f",
				micro(last.cpu-last.inside), micro(last.client), micro(last.daemon), micro(last.workersBeside))
			b.row("  allocations for one: daemon, worker", "%8.2f, %.3f", last.daemonObjects, last.workersObjects)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.row("ratio streamed / bare loop", "%8.2f", mean(rates)/mean(rawRates))
	return nil
}

// noRecycling is more than any run reaches.
const noRecycling = 1 << 40

func (b *bench) streamed(ctx context.Context, s *service, l *load) (m streamed, err error) {
	if err := b.supply.stock(ctx, b.plenty()); err != nil {
		return m, err
	}
	before, err := b.reading(s)
	if err != nil {
		return m, err
	}
	profiled := b.profile(s)
	n, took, err := l.stream(ctx, b.Length, 0)
	if err = errors.Join(err, <-profiled); err != nil {
		return m, err
	}
	after, err := b.reading(s)
	if err != nil {
		return m, err
	}
	m.rate = float64(n) / took.Seconds()
	m.cpu = (after.cpu - before.cpu) / time.Duration(n)
	m.inside = time.Duration(after.workers.InsideCPUNS-before.workers.InsideCPUNS) / time.Duration(n)
	m.client = (after.own - before.own) / time.Duration(n)
	m.daemon = (after.daemon - before.daemon) / time.Duration(n)
	m.workersBeside = time.Duration(after.workers.CPUNS-before.workers.CPUNS)/time.Duration(n) - m.inside
	m.daemonObjects = (after.metrics["go_memstats_mallocs_total"] - before.metrics["go_memstats_mallocs_total"]) / float64(n)
	m.workersObjects = float64(after.workers.Objects-before.workers.Objects) / float64(n)
	return m, nil
}

// plenty is more taps than a measurement by time can send.
func (b *bench) plenty() int { return int(plentyRate * b.Length.Seconds()) }

const plentyRate = 25_000 // a second

// profile takes a CPU profile while something else puts load on the daemon.
func (b *bench) profile(s *service) <-chan error {
	done := make(chan error, 1)
	if b.Profile == "" {
		done <- nil
		return done
	}
	go func() { done <- fetchProfile(s, b.Length, b.Profile) }()
	return done
}

// A reading is everything that grows with the work done.
type reading struct {
	cpu     time.Duration // of all processes, this one included
	own     time.Duration // of this process, the client
	daemon  time.Duration
	workers counters
	metrics map[string]float64
}

func (b *bench) reading(s *service) (r reading, err error) {
	if r.workers, err = workerCounters(b.measure); err != nil {
		return r, err
	}
	if r.metrics, err = scrape(s); err != nil {
		return r, err
	}
	below := tree(s.pid())
	r.own, r.daemon = ownCPU(), below[s.pid()].cpu
	r.cpu = r.own
	for _, p := range below {
		r.cpu += p.cpu
	}
	return r, nil
}

func (b *bench) memoryAndUnary(ctx context.Context) error {
	return b.with(ctx, settings{}, func(s *service, l *load) error {
		if err := b.unary(ctx, s, l); err != nil {
			return err
		}
		stop := make(chan struct{})
		largest := watchWorkers(s.pid(), stop)
		err := b.supply.stock(ctx, b.Total)
		var n int
		var took time.Duration
		if err == nil {
			n, took, err = l.stream(ctx, 0, b.Total)
		}
		close(stop)
		if err != nil {
			return err
		}
		b.row("streamed with recycling, default", "%8.0f /s", float64(n)/took.Seconds())
		b.row(fmt.Sprintf("daemon resident after %d verifications", n), "%8.1f MB", float64(resident(s.pid()))/1e6)
		b.row("largest worker meanwhile", "%8.1f MB", float64(<-largest)/1e6)
		return nil
	})
}

// watchWorkers gives the largest resident set of a process below the
// supervisor, once stop is closed.
func watchWorkers(root int, stop <-chan struct{}) <-chan uint64 {
	answer := make(chan uint64, 1)
	go func() {
		var largest uint64
		for {
			for pid := range tree(root) {
				if pid != root {
					largest = max(largest, resident(pid))
				}
			}
			select {
			case <-stop:
				answer <- largest
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return answer
}

const unaryCallers = 64

func (b *bench) unary(ctx context.Context, s *service, l *load) error {
	if err := b.supply.stock(ctx, b.plenty()); err != nil {
		return err
	}
	full, err := l.unary(ctx, unaryCallers, b.Length)
	if err != nil {
		return err
	}
	b.peak = full.rate
	b.latencyRow(fmt.Sprintf("unary, %d callers", unaryCallers), full)
	before, err := scrape(s)
	if err != nil {
		return err
	}
	if err := b.supply.stock(ctx, b.plenty()); err != nil {
		return err
	}
	half, err := l.paced(ctx, b.peak/2, b.Length)
	if err != nil {
		return err
	}
	after, err := scrape(s)
	if err != nil {
		return err
	}
	b.latencyRow("unary at half of that", half)
	b.row("  journal commit p99 in that run, at most",
		"%8.1f ms", 1e3*histogramQuantile(before, after, "tapseal_journal_commit_duration_seconds", 0.99))
	return nil
}

func (b *bench) latencyRow(what string, r *latencies) {
	ms := func(q float64) float64 { return float64(r.quantile(q)) / 1e6 }
	b.row(what, "%8.0f /s   p50 %.1f  p99 %.1f  p99.9 %.1f  max %.1f ms", r.rate, ms(0.5), ms(0.99), ms(0.999), ms(1))
}

// recycling compares latencies with workers that are replaced about once a
// second and with workers that stay.
func (b *bench) recycling(ctx context.Context) error {
	rate := b.peak / 2
	for _, v := range []struct {
		what  string
		after uint64
	}{
		{"unary at half, workers stay", noRecycling},
		{"unary at half, each worker replaced every second", uint64(max(rate/workers, 100))},
		{"unary at half, workers stay", noRecycling},
		{"unary at half, each worker replaced every second", uint64(max(rate/workers, 100))},
	} {
		err := b.with(ctx, settings{recycleAfter: v.after}, func(_ *service, l *load) error {
			if err := b.supply.stock(ctx, b.plenty()); err != nil {
				return err
			}
			r, err := l.paced(ctx, rate, b.Length)
			if err == nil {
				b.latencyRow(v.what, r)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// software runs the same plans in this process, without any boundary.
func (b *bench) software(context.Context) error {
	raw, err := hex.DecodeString(issuerKey)
	if err != nil {
		return err
	}
	plans := make([]cryptogram.Plan, len(b.taps))
	for i, t := range b.taps {
		if err := t.plan(&plans[i]); err != nil {
			return err
		}
	}
	var out cryptogram.Outcome
	n, start := 0, time.Now()
	for ; time.Since(start) < b.Length/2; n++ {
		if err := software.Execute([16]byte(raw), &plans[n%len(plans)], &out); err != nil {
			return err
		}
		if out.Steps[0].Status != cryptogram.Matched {
			return errors.New("a right cryptogram did not match in software")
		}
	}
	each := time.Since(start) / time.Duration(n)
	b.row("pure Go in process, one goroutine, keys in memory", "%8.0f /s   %.1f µs each", float64(time.Second)/float64(each), micro(each))
	b.row("machine", "%d cores, %s", runtime.NumCPU(), runtime.Version())
	return nil
}

func (t tap) plan(p *cryptogram.Plan) error {
	field55, err := hex.DecodeString(t.Field55)
	if err != nil {
		return err
	}
	card, err := cryptogram.ParseField55(field55)
	if err != nil {
		return err
	}
	pan, err := cryptogram.ParsePAN(t.PAN)
	if err != nil {
		return err
	}
	psn, err := cryptogram.ParsePSN(t.PSN)
	if err != nil {
		return err
	}
	prof, _, err := cryptogram.SelectProfile(cryptogram.SchemeVisa, card.IAD())
	if err != nil {
		return err
	}
	var req cryptogram.Request
	if err := cryptogram.NewRequest(&card, pan, psn, true, prof, cryptogram.OptionA, &req); err != nil {
		return err
	}
	return cryptogram.BuildPlan(&req, p)
}

func perJob(ns, jobs uint64) float64 { return float64(ns) / float64(max(jobs, 1)) / 1000 }

func micro(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(max(len(v), 1))
}
