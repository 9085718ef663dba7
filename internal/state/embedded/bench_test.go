package embedded

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/tapseal/tapseal/internal/state"
)

// The benchmark compares, in one run and on one directory's disk, the engine with
// a bare loop on the same database: 64 goroutines, striped locks, one synced
// write for each compare-and-set. Its metrics: cas/s and bare-cas/s, their ratio,
// µs of this process's processor time for each record of both, all background
// work included.
const (
	benchCallers = 64
	benchBatch   = 64
	benchRecord  = 56 // bytes: the common case
)

func BenchmarkCompareAndSet(b *testing.B) {
	sizes := []int{1e3, 1e5, 1e6}
	if os.Getenv("TAPSEAL_LONG") != "" {
		sizes = append(sizes, 1e7)
	}
	for _, tokens := range sizes {
		b.Run(fmt.Sprintf("tokens=%.0e", float64(tokens)), func(b *testing.B) {
			e := filled(b, tokens)
			b.ResetTimer()
			bare := measure(b.N, func(n int) { bareLoop(b, e.db, tokens, n) })
			engine := measure(b.N, func(n int) { engineLoop(b, e, tokens, n) })
			b.StopTimer()
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(engine.rate, "cas/s")
			b.ReportMetric(bare.rate, "bare-cas/s")
			b.ReportMetric(engine.rate/bare.rate, "ratio")
			b.ReportMetric(engine.cpuMicros, "cpu-µs/record")
			b.ReportMetric(bare.cpuMicros, "bare-cpu-µs/record")
		})
	}
}

// BenchmarkRead is Read alone, of batches under random keys.
func BenchmarkRead(b *testing.B) {
	for _, tokens := range []int{1e3, 1e6} {
		b.Run(fmt.Sprintf("tokens=%.0e", float64(tokens)), func(b *testing.B) {
			e := filled(b, tokens)
			batch := &state.Batch{Rows: make([]state.Row, benchBatch)}
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += benchBatch { // an op is a record
				for i := range batch.Rows {
					batch.Rows[i].Key = benchKey(spread(uint64(n+i), tokens))
				}
				if err := e.Read(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

type figures struct{ rate, cpuMicros float64 }

func measure(n int, run func(n int)) figures {
	cpu, begun := processorTime(), time.Now()
	run(n)
	return figures{
		rate:      float64(n) / time.Since(begun).Seconds(),
		cpuMicros: float64((processorTime() - cpu).Microseconds()) / float64(n),
	}
}

func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// filled is an engine with so many records, in all levels as after a long run.
func filled(b *testing.B, tokens int) *Engine {
	b.Helper()
	e := open(b, filepath.Join(b.TempDir(), "state"), Options{})
	const rows = state.MaxBatchRows
	for n := 0; n < tokens; n += rows {
		batch := &state.Batch{Rows: make([]state.Row, min(rows, tokens-n))}
		for i := range batch.Rows {
			batch.Rows[i] = state.Row{Key: benchKey(n + i), Next: benchNext(uint64(n + i))}
		}
		if err := e.Commit(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	return e
}

// benchKey spreads like a hash.
func benchKey(n int) (k state.Key) {
	binary.BigEndian.PutUint64(k[:], mix(uint64(n)))
	binary.BigEndian.PutUint64(k[8:], mix(uint64(n)+1<<60))
	return k
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9E3779B97F4A7C15
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

func spread(n uint64, tokens int) int { return int(mix(n^0x5555) % uint64(tokens)) }

func benchNext(n uint64) []byte {
	record := make([]byte, benchRecord)
	for i := 0; i+8 <= len(record); i += 8 {
		binary.BigEndian.PutUint64(record[i:], mix(n+uint64(i)))
	}
	return record
}

// bareLoop makes n compare-and-sets of records without the engine.
func bareLoop(b *testing.B, db *pebble.DB, tokens, n int) {
	var stripes [256]sync.Mutex
	var next atomic.Int64
	var group sync.WaitGroup
	for range benchCallers {
		group.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				k := benchKey(spread(uint64(i), tokens))
				if err := bareCAS(db, &stripes[k[0]], &k, benchNext(uint64(i))); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

func bareCAS(db *pebble.DB, stripe *sync.Mutex, k *state.Key, next []byte) error {
	var buf [spacedBytes]byte
	key := spaced(&buf, spaceRecord, k)
	stripe.Lock()
	defer stripe.Unlock()
	now, closer, err := db.Get(key)
	if err != nil {
		return err
	}
	value := make([]byte, versionBytes, versionBytes+len(next))
	binary.BigEndian.PutUint64(value, binary.BigEndian.Uint64(now)+1)
	if err := closer.Close(); err != nil {
		return err
	}
	return db.Set(key, append(value, next...), pebble.Sync)
}

// engineLoop does the same in batches, from one goroutine as the store does.
// A token that comes twice in one batch is left out the second time.
func engineLoop(b *testing.B, e *Engine, tokens, n int) {
	seen := make(map[state.Key]bool, benchBatch)
	batch := &state.Batch{}
	tap := uint64(1 << 40)
	for done := 0; done < n; {
		clear(seen)
		batch.Rows = batch.Rows[:0]
		for len(batch.Rows) < min(benchBatch, n-done) {
			k := benchKey(spread(tap, tokens))
			tap++
			if seen[k] {
				continue
			}
			seen[k] = true
			batch.Rows = append(batch.Rows, state.Row{Key: k})
		}
		if err := e.Read(b.Context(), batch); err != nil {
			b.Error(err)
			return
		}
		for i := range batch.Rows {
			batch.Rows[i].Next = benchNext(uint64(done + i))
		}
		if err := e.Commit(b.Context(), batch); err != nil {
			b.Error(err)
			return
		}
		for i := range batch.Rows {
			if !batch.Rows[i].Written {
				b.Error("a conflict")
				return
			}
		}
		done += len(batch.Rows)
	}
}
