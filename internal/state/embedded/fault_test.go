package embedded

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

const memDir = "/state"

// inMemory makes the directory.
func inMemory(t testing.TB, disk *vfs.MemFS) vfs.FS {
	t.Helper()
	if err := disk.MkdirAll(memDir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := disk.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(root.Sync(), root.Close()); err != nil {
		t.Fatal(err)
	}
	return disk
}

func random(kept int) vfs.CrashCloneCfg {
	return vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rand.New(rand.NewPCG(1, uint64(kept)))}
}

// A failing is a disk of which one operation fails, the at-th of those that
// change it, counted from when it is armed. Later ones would succeed.
type failing struct {
	at, seen atomic.Int64
	err      error
	met      atomic.Pointer[errorfs.Op]
}

func (f *failing) MaybeError(op errorfs.Op) error {
	if f.at.Load() == 0 || op.Kind.ReadOrWrite() != errorfs.OpIsWrite || op.Kind == errorfs.OpFilePreallocate {
		return nil
	}
	if f.seen.Add(1) != f.at.Load() {
		return nil
	}
	f.met.Store(&op)
	return &os.PathError{Op: "failing", Path: op.Path, Err: f.err}
}

func (f *failing) String() string { return "failing" }

// Whatever operation fails, in the log, a flush, a compaction or the manifest:
// the engine is broken, nothing acknowledged is lost, and nothing hangs.
func TestOneErrorIsTheEnd(t *testing.T) {
	kinds := make(map[errorfs.OpKind]int)
	for at := int64(1); at < 1500; at = at + 1 + at/10 {
		f := &failing{err: syscall.EIO}
		if at%2 == 0 {
			f.err = syscall.ENOSPC
		}
		disk := vfs.NewCrashableMem()
		var log bytes.Buffer
		e := open(t, memDir, Options{
			fs: errorfs.Wrap(inMemory(t, disk), f), memTableBytes: 64 << 10, Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		f.at.Store(at)
		acknowledged := writeUntilBroken(t, e)
		if f.met.Load() == nil {
			t.Fatalf("operation %d: broken without an error", at)
		}
		kinds[f.met.Load().Kind]++
		allBroken(t, e)
		if text := log.String(); strings.Count(text, "\n") != 1 || hasKey(text) {
			t.Errorf("operation %d: the log has more than one line, or a key", at)
		}
		for _, kept := range []int{0, 50} {
			again := open(t, memDir, Options{fs: disk.CrashClone(random(kept))})
			for key, record := range acknowledged {
				b := &state.Batch{Rows: []state.Row{{Key: statetest.Key(key)}}}
				if err := again.Read(t.Context(), b); err != nil {
					t.Fatal(err)
				}
				if got := string(b.Rows[0].Record); got < record {
					t.Errorf("operation %d: %q is there, %q was acknowledged", at, got, record)
				}
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%v", kinds)
}

// writeUntilBroken commits from several goroutines, each to its own keys, and
// gives what was acknowledged.
func writeUntilBroken(t *testing.T, e *Engine) map[int]string {
	t.Helper()
	acknowledged := make(map[int]string)
	var mu sync.Mutex
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for n := 0; ; n++ {
				b := &state.Batch{}
				for i := range 10 {
					b.Rows = append(b.Rows, state.Row{Key: statetest.Key(g*100 + (n*7+i)%40)})
				}
				err := e.Read(t.Context(), b)
				record := fmt.Sprintf("%08d%s", n, strings.Repeat("r", 400))
				if err == nil {
					for i := range b.Rows {
						b.Rows[i].Next = []byte(record)
					}
					err = e.Commit(t.Context(), b)
				}
				if err != nil {
					if !errors.Is(err, state.ErrBroken) || hasKey(err.Error()) {
						t.Errorf("the end is %v", err)
					}
					return
				}
				mu.Lock()
				for i := range 10 {
					acknowledged[g*100+(n*7+i)%40] = record
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return acknowledged
}

// hasKey: records are under keys that end in small numbers, so look for what
// they begin with.
func hasKey(text string) bool {
	for i := range 400 {
		k := statetest.Key(i)
		if strings.Contains(text, string(k[:8])) || strings.Contains(strings.ToLower(text), hex.EncodeToString(k[:8])) {
			return true
		}
	}
	return false
}

func allBroken(t *testing.T, e *Engine) {
	t.Helper()
	select { // a caller may hear of it before it is logged
	case <-e.Failed():
	case <-time.After(30 * time.Second):
		t.Fatal("Failed says nothing")
	}
	b := &state.Batch{Rows: []state.Row{{Key: statetest.Key(1), Next: []byte("x")}}}
	_, control := e.Control(t.Context())
	_, set := e.SetControl(t.Context(), state.Control{})
	_, sequence := e.Sequence(t.Context())
	for name, err := range map[string]error{
		"Read": e.Read(t.Context(), b), "Commit": e.Commit(t.Context(), b), "Control": control, "SetControl": set,
		"Sequence": sequence, "AcceptRegression": e.AcceptRegression(t.Context(), 7),
		"Backup": e.Backup(t.Context(), "/nowhere"), "Close": e.Close(),
	} {
		if !errors.Is(err, state.ErrBroken) {
			t.Errorf("%s of a broken engine: %v", name, err)
		}
	}
	if b.Rows[0].Written {
		t.Error("written")
	}
}

// A holding disk keeps syncs waiting.
type holding struct {
	gate sync.RWMutex
}

func (h *holding) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
		h.gate.RLock()
		h.gate.RUnlock() //nolint:staticcheck // it only waits
	}
	return nil
}

func (h *holding) String() string { return "holding" }

// Nobody sees what is not durable, nobody waits longer than asked, and what was
// given up happens or not, but whole.
func TestNothingIsSeenBeforeItIsDurable(t *testing.T) {
	h := &holding{}
	e := open(t, memDir, Options{fs: errorfs.Wrap(inMemory(t, vfs.NewCrashableMem()), h), Sweep: -1})
	one, two := statetest.Key(1), statetest.Key(2)
	soon := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	h.gate.Lock()
	b := &state.Batch{Rows: []state.Row{{Key: one, Next: []byte("x")}}}
	if err := e.Commit(soon(), b); !errors.Is(err, state.ErrUnavailable) || b.Rows[0].Written {
		t.Fatalf("a commit that is not synced: %v", err)
	}
	read := &state.Batch{Rows: []state.Row{{Key: one}}}
	if err := e.Read(soon(), read); !errors.Is(err, state.ErrUnavailable) {
		t.Errorf("what is not synced was read: %q, %v", read.Rows[0].Record, err)
	}
	if _, err := e.SetControl(soon(), state.Control{Document: []byte("d")}); !errors.Is(err, state.ErrUnavailable) {
		t.Error(err)
	}
	if c, err := e.Control(soon()); err != nil || c.Epoch != 0 {
		t.Errorf("a document that is not synced is in force: %+v, %v", c, err)
	}
	if n, err := e.Sequence(soon()); err != nil || n != 0 {
		t.Errorf("a sequence that is not synced: %d, %v", n, err)
	}
	waiting := make(chan error)
	go func() { waiting <- e.Read(t.Context(), read) }()
	h.gate.Unlock()
	if err := <-waiting; err != nil || string(read.Rows[0].Record) != "x" {
		t.Errorf("%q, %v", read.Rows[0].Record, err)
	}
	b = &state.Batch{Rows: []state.Row{{Key: two, Next: []byte("y")}}}
	if err := e.Read(t.Context(), b); err != nil || b.Epoch != 1 {
		t.Errorf("epoch %d, %v", b.Epoch, err)
	}
	if err := e.Commit(t.Context(), b); err != nil || b.Sequence != 2 {
		t.Errorf("sequence %d, %v", b.Sequence, err)
	}
}

func TestDamageIsFound(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	e := open(t, dir, Options{})
	b := &state.Batch{}
	for i := range 1000 {
		b.Rows = append(b.Rows, state.Row{Key: statetest.Key(i), Next: bytes.Repeat([]byte{byte(i)}, 60)})
	}
	if err := errors.Join(e.Commit(t.Context(), b), e.db.Flush(), e.Close()); err != nil {
		t.Fatal(err)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	for _, table := range tables {
		data, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for i := 8000; i < len(data)/2; i += 1000 { // behind what Open reads
			data[i] ^= 0x40
		}
		if err := os.WriteFile(table, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	e = open(t, dir, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	err = e.Read(t.Context(), b)
	if !errors.Is(err, state.ErrBroken) || hasKey(err.Error()+log.String()) {
		t.Errorf("a damaged table: %v", err)
	}
	allBroken(t, e)
}

// What Pebble says in its own words stays with it; a call of Fatalf is the end,
// and never returns.
func TestPebbleSaysNothing(t *testing.T) {
	var log bytes.Buffer
	m := newMedium(slog.New(slog.NewTextHandler(&log, nil)))
	l := &logger{m}
	k := statetest.Key(1)
	l.Infof("key %x", k)
	l.Errorf("key %x", k)
	if m.err() != nil || log.Len() != 0 {
		t.Error("a message was passed on")
	}
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		l.Fatalf("key %x: %v", k, fmt.Errorf("key %x: %w", k, syscall.EROFS))
	}()
	<-m.broken
	if err := m.err(); !errors.Is(err, state.ErrBroken) || !errors.Is(err, syscall.EROFS) || hasKey(err.Error()+log.String()) {
		t.Errorf("%v; %s", err, log.String())
	}
	select {
	case <-returned:
		t.Error("Fatalf returned")
	default:
	}
}

// Errors while opening are returned.
func TestOpenOnAFailingDisk(t *testing.T) {
	for at := int64(1); at < 200; at++ {
		f := &failing{err: syscall.EIO}
		f.at.Store(at)
		disk := vfs.NewCrashableMem()
		e, err := Open(memDir, Options{fs: errorfs.Wrap(inMemory(t, disk), f), Sweep: -1})
		if f.met.Load() == nil {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations", f.seen.Load())
			_ = e.Close()
			return
		}
		if err == nil {
			_ = e.Close()
			t.Errorf("operation %d failed (%v), and nobody noticed", at, f.met.Load())
		}
	}
	t.Error("the disk always fails")
}
