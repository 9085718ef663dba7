package hsm

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchSink keeps a window of calls in flight: a batch that comes back goes
// out again, until enough have been sent.
type benchSink struct {
	pool  *Pool
	left  *atomic.Int64 // calls still to be submitted, of all sinks
	out   atomic.Int64  // calls of this sink in the pool
	wrong atomic.Int64
	done  sync.WaitGroup
}

func (s *benchSink) Completed(calls []*Call) {
	again := len(calls)
	if left := s.left.Add(-int64(len(calls))); left < 0 {
		again = max(0, again+int(left))
	}
	deadline := time.Now().Add(5 * time.Second)
	for _, c := range calls {
		if c.Answer != Matched && c.Answer != Mismatched {
			s.wrong.Add(1)
		}
		c.Deadline = deadline
	}
	s.out.Add(-int64(len(calls) - again))
	s.pool.Submit(calls[:again]...)
	if s.out.Load() == 0 {
		s.done.Done()
	}
}

// BenchmarkPool measures everything between Submit and Completed with two
// connections, beside peers that answer at once in this process: their decoding,
// encoding and system calls are included, so a call costs the pool about half
// of cpu-ns/op. Windows are calls in flight, in batches as streams send them,
// or one by one from as many sinks, as unary callers do.
func BenchmarkPool(b *testing.B) {
	for _, bc := range []struct{ sinks, perSink int }{{1, 1}, {1, 64}, {1, 256}, {4, 256}, {64, 1}, {512, 1}} {
		b.Run(fmt.Sprintf("sinks=%d/window=%d", bc.sinks, bc.perSink), func(b *testing.B) {
			benchmarkPool(b, bc.sinks, bc.perSink)
		})
	}
}

func benchmarkPool(b *testing.B, sinks, perSink int) {
	dir := socketDir(b)
	startPeer(b, dir, "worker-0.sock", nil)
	startPeer(b, dir, "worker-1.sock", nil)
	p := startPool(b, dir, nil)
	waitOpen(b, p, 2)
	var left atomic.Int64
	all := make([]*benchSink, sinks)
	calls := make([][]*Call, sinks)
	for i := range all {
		all[i] = &benchSink{pool: p, left: &left}
		calls[i] = newLedger().calls(b, perSink, 5*time.Second)
		for _, c := range calls[i] {
			c.Sink = all[i]
		}
	}
	run := func(n int) {
		left.Store(int64(n - sinks*perSink))
		for i, s := range all {
			for _, c := range calls[i] {
				c.Deadline = time.Now().Add(5 * time.Second)
			}
			s.out.Store(int64(perSink))
			s.done.Add(1)
			p.Submit(calls[i]...)
		}
		for _, s := range all {
			s.done.Wait()
		}
	}
	run(20000) // buffers grow to their size
	b.ReportAllocs()
	cpu := cpuTime(b)
	b.ResetTimer()
	n := max(b.N, sinks*perSink)
	before := p.Stats().Submitted
	run(n)
	b.StopTimer()
	if got := p.Stats().Submitted - before; got != uint64(n) {
		b.Fatalf("%d calls instead of %d", got, n)
	}
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(n), "cpu-ns/op")
	for _, s := range all {
		if s.wrong.Load() > 0 {
			b.Fatalf("%d calls were not answered", s.wrong.Load())
		}
	}
}

// cpuTime is what this process has used, user and system, in nanoseconds.
func cpuTime(b *testing.B) int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return ts.Nano()
}
