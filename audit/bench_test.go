package audit

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkAppend gives, for batches of one and of 64 with 64 batches in
// flight, the CPU and the allocations of one record.
func BenchmarkAppend(b *testing.B) {
	for name, batch := range map[string]int{"batch1": 1, "batch64": 64} {
		b.Run(name, func(b *testing.B) { benchmarkAppend(b, batch) })
	}
}

func benchmarkAppend(b *testing.B, batch int) {
	j := mustOpen(b, b.TempDir(), Options{})
	recs := make([]Record, batch)
	for i := range recs {
		recs[i] = testRecord(i)
	}
	window := make(chan struct{}, 64)
	failed := 0
	done := func(err error) {
		if err != nil {
			failed++
		}
		<-window
	}
	b.ReportAllocs()
	b.ResetTimer()
	before := processCPU(b)
	for i := 0; i < b.N; i += batch {
		window <- struct{}{}
		j.Append(recs, done)
	}
	for range cap(window) {
		window <- struct{}{}
	}
	b.StopTimer()
	b.ReportMetric(float64(processCPU(b)-before)/float64(b.N), "cpu-ns/record")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(j.Stats().Records)/float64(j.Stats().Commits), "records/commit")
	if failed > 0 {
		b.Fatalf("%d appends failed", failed)
	}
}

func BenchmarkAppendWait(b *testing.B) {
	j := mustOpen(b, b.TempDir(), Options{})
	rec := testRecord(1)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := j.AppendWait(b.Context(), rec); err != nil {
				b.Error(err)
			}
		}
	})
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
