package store_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
	"github.com/tapseal/tapseal/internal/state/store"
)

// What a store costs, over the engine in memory: the processor time of the
// process for an operation, and of it what the engine took.
func BenchmarkStore(b *testing.B) {
	for _, inFlight := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(inFlight), func(b *testing.B) {
			e := &timed{Engine: statetest.NewModel()}
			s := open(b, e, store.Options{})
			ops := make([]*store.Op, inFlight)
			d := &cycle{s: s, left: int64(b.N), done: make(chan struct{})}
			for i := range ops {
				ops[i] = tap(i, 0, 0)
				ops[i].Sink, ops[i].Owner = d, i
			}
			b.ReportAllocs()
			b.ResetTimer()
			begun := processorTime()
			s.Submit(ops...)
			<-d.done
			used := processorTime() - begun
			b.ReportMetric(float64(used.Nanoseconds())/1e3/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64(e.took.Load())/1e3/float64(b.N), "engine-µs/op")
		})
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type timed struct {
	state.Engine
	took atomic.Int64
}

func (e *timed) Read(ctx context.Context, b *state.Batch) error {
	defer e.add(time.Now())
	return e.Engine.Read(ctx, b)
}

func (e *timed) Commit(ctx context.Context, b *state.Batch) error {
	defer e.add(time.Now())
	return e.Engine.Commit(ctx, b)
}

func (e *timed) add(begun time.Time) { e.took.Add(int64(time.Since(begun))) }

// A cycle submits each operation again, with the next ATC of another token.
type cycle struct {
	s    *store.Store
	left int64
	done chan struct{}
	next []*store.Op
}

func (d *cycle) Settled(ops []*store.Op) {
	d.next = d.next[:0]
	for _, op := range ops {
		if op.Outcome.Result != state.Accept {
			panic(fmt.Sprintf("%+v, %v", op.Outcome, op.Err))
		}
		if d.left--; d.left == 0 {
			close(d.done)
		}
		e := &op.Event
		if e.ATC++; e.ATC == 1000 {
			e.ATC = 0
			k := &op.Subjects[0].Key // another token
			for i := 8; i < len(k); i++ {
				if k[i]++; k[i] != 0 {
					break
				}
			}
		}
		e.Requests[0][5], e.Requests[0][6] = byte(e.ATC>>8), byte(e.ATC)
		d.next = append(d.next, op)
	}
	if d.left > 0 {
		d.s.Submit(d.next...)
	}
}
