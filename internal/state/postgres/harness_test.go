package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/postgrestest"
)

// shared is one cluster for all tests that do not break it; each test has a
// database of its own there.
var shared struct {
	mu      sync.Mutex
	cluster *postgrestest.Cluster
	t       keeper
}

// keeper is the testing.TB of the shared cluster: it cleans up after all tests.
type keeper struct {
	testing.TB
	cleanups []func()
}

func (k *keeper) Cleanup(f func()) { k.cleanups = append(k.cleanups, f) }

func TestMain(m *testing.M) {
	code := m.Run()
	for i := len(shared.t.cleanups) - 1; i >= 0; i-- {
		shared.t.cleanups[i]()
	}
	os.Exit(code)
}

func cluster(t testing.TB) *postgrestest.Cluster {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.cluster == nil {
		shared.t.TB = t
		shared.cluster = postgrestest.Start(&shared.t)
	}
	return shared.cluster
}

func instance() (i [16]byte) {
	_, _ = rand.Read(i[:])
	return i
}

// migrated makes a database with the schema.
func migrated(t testing.TB, c *postgrestest.Cluster) (database string) {
	t.Helper()
	database = c.Database()
	if _, err := Migrate(t.Context(), Options{Connection: c.URL(database)}); err != nil {
		t.Fatal(err)
	}
	return database
}

func open(t testing.TB, o Options) *Engine {
	t.Helper()
	e, err := tryOpen(t, o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func tryOpen(t testing.TB, o Options) (*Engine, error) {
	if o.Instance == ([16]byte{}) {
		o.Instance = instance()
	}
	e, err := Open(t.Context(), o)
	if err == nil {
		t.Cleanup(func() { _ = e.Close() })
	}
	return e, err
}

// fresh is an engine on a database of its own.
func fresh(t testing.TB) *Engine {
	t.Helper()
	c := cluster(t)
	return open(t, Options{Connection: c.URL(migrated(t, c))})
}

func key(n int) (k state.Key) {
	binary.BigEndian.PutUint64(k[8:], uint64(n)*0x9e3779b97f4a7c15) // spread like a hash
	binary.BigEndian.PutUint64(k[:], uint64(n)*0xbf58476d1ce4e5b9)
	return k
}

func batch(keys ...state.Key) *state.Batch {
	b := &state.Batch{Rows: make([]state.Row, len(keys))}
	for i, k := range keys {
		b.Rows[i].Key = k
	}
	return b
}

func read(t testing.TB, e *Engine, b *state.Batch) {
	t.Helper()
	if err := e.Read(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func commit(t testing.TB, e *Engine, b *state.Batch) {
	t.Helper()
	if err := e.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// put reads, writes and commits one record, and wants it written.
func put(t testing.TB, e *Engine, k state.Key, record string) {
	t.Helper()
	b := batch(k)
	read(t, e, b)
	b.Rows[0].Next = []byte(record)
	commit(t, e, b)
	if !b.Rows[0].Written {
		t.Fatal("not written")
	}
}

func get(t testing.TB, e *Engine, k state.Key) (string, uint64) {
	t.Helper()
	b := batch(k)
	read(t, e, b)
	return string(b.Rows[0].Record), b.Rows[0].Version
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not in a minute: %s", what)
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// farAway is when counters of tests expire.
const farAway = 1 << 40
