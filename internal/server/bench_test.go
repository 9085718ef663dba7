package server

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// BenchmarkStream sends messages of 64 taps over TLS and waits for all results.
// Client, daemon, worker and the software executor are all in this process, so
// the figures are upper bounds for the daemon; "executor" is what the same
// plans cost alone.
func BenchmarkStream(b *testing.B) {
	for _, size := range []int{1, 32, 64} {
		b.Run(fmt.Sprintf("taps=%d", size), func(b *testing.B) { benchmarkStream(b, size) })
	}
}

func benchmarkStream(b *testing.B, size int) {
	r := newRig(b, "visa")
	good := field55(visaCase().tap(b, "x"))
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	const window = 8 // messages in flight
	messages := make([]*tapsealv1.VerifyCryptogramsRequest, 2*window)
	for i := range messages {
		messages[i] = &tapsealv1.VerifyCryptogramsRequest{}
		for j := range size {
			tap, _ := proto.Clone(good).(*tapsealv1.Tap)
			tap.RequestId = fmt.Sprintf("tap-%03d-%03d", i, j)
			messages[i].Taps = append(messages[i].Taps, tap)
		}
	}
	room := make(chan struct{}, window*size)
	n := (b.N + size - 1) / size
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime(b)
	b.ResetTimer()
	go func() {
		for i := range n {
			for range size {
				room <- struct{}{}
			}
			if stream.Send(messages[i%len(messages)]) != nil {
				return
			}
		}
		_ = stream.CloseSend()
	}()
	for got := 0; got < n*size; {
		m, err := stream.Recv()
		if err != nil {
			b.Fatal(err)
		}
		for _, res := range m.GetResults() {
			if res.GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
				b.Fatalf("result %v", res)
			}
			<-room
		}
		got += len(m.GetResults())
	}
	b.StopTimer()
	used := cpuTime(b) - cpu
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(used.Nanoseconds())/float64(n*size)/1000, "cpu-µs/tap")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(n*size), "allocs/tap")
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
