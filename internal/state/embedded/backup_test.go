package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

// A backup is taken under load: it has all that was acknowledged before, pairs
// are whole, and it opens as an older state.
func TestBackupUnderLoad(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "state")
	e := open(t, dir, Options{memTableBytes: 256 << 10})
	if _, err := e.SetControl(t.Context(), state.Control{Document: []byte("d")}); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := writePair(t.Context(), e, g, n); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 5 {
		backup := filepath.Join(base, fmt.Sprint("backup", i))
		before, err := e.Sequence(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Backup(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		checkBackup(t, e, backup, before)
	}
	close(stop)
	group.Wait()
}

func writePair(ctx context.Context, e *Engine, g, n int) error {
	b := &state.Batch{}
	for i := range 20 {
		k := g*1000 + (n*20+i)%400
		b.Rows = append(b.Rows, state.Row{Key: statetest.Key(k), Also: &state.Row{Key: statetest.Key(100_000 + k)}})
	}
	if err := e.Read(ctx, b); err != nil {
		return err
	}
	for i := range b.Rows {
		r := &b.Rows[i]
		r.Next = []byte(fmt.Sprintf("%d %s", n, strings.Repeat("r", 100)))
		r.Also.Next = r.Next
	}
	return e.Commit(ctx, b)
}

func checkBackup(t *testing.T, e *Engine, backup string, before uint64) {
	t.Helper()
	info, err := Check(backup)
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != e.ID() || info.Epoch != 1 || info.Sequence < before {
		t.Errorf("%+v, but commit %d was acknowledged", info, before)
	}
	if stat, err := os.Stat(backup); err != nil || stat.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", stat.Mode(), err)
	}
	restored := filepath.Join(filepath.Dir(backup), "restored-"+filepath.Base(backup))
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", backup, restored).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := open(t, restored, Options{})
	if n, err := r.Sequence(t.Context()); err != nil || n != info.Sequence || r.ID() != e.ID() {
		t.Errorf("sequence %d, %v, want %d", n, err, info.Sequence)
	}
	b := &state.Batch{}
	for g := range 4 {
		for k := range 200 {
			b.Rows = append(b.Rows, state.Row{Key: statetest.Key(g*1000 + k), Also: &state.Row{Key: statetest.Key(100_000 + g*1000 + k)}})
		}
	}
	if err := r.Read(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	for i := range b.Rows {
		if diff := cmp.Diff(string(b.Rows[i].Record), string(b.Rows[i].Also.Record)); diff != "" {
			t.Fatal(diff)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestBackupRefuses(t *testing.T) {
	base := t.TempDir()
	e := open(t, filepath.Join(base, "state"), Options{})
	taken, partial := filepath.Join(base, "taken"), filepath.Join(base, "b.partial")
	for _, path := range []string{taken, partial} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		taken: "exists already", filepath.Join(base, "b"): "exists already", e.dir: "exists already",
	} {
		if err := e.Backup(t.Context(), path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// A place that cannot be written to is the operator's fault, not the state's.
	if err := e.Backup(t.Context(), filepath.Join("/proc", "backup")); err == nil || errors.Is(err, state.ErrBroken) {
		t.Errorf("into /proc: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Backup(ctx, filepath.Join(base, "c")); !errors.Is(err, state.ErrUnavailable) {
		t.Error(err)
	}
	if err := e.Commit(t.Context(), &state.Batch{}); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "state")
	e := open(t, dir, Options{})
	for n := range 3 {
		if err := writePair(t.Context(), e, 0, n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Check(dir); err == nil || !strings.HasSuffix(err.Error(), "it is in use by another process") {
		t.Errorf("while it is open: %v", err)
	}
	id := e.ID()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // it changes nothing
		info, err := Check(dir)
		if err != nil || info != (Info{ID: id, Sequence: 3}) || id == (StateID{}) {
			t.Errorf("%+v, %v", info, err)
		}
	}
	if e = open(t, dir, Options{}); e.ID() != id {
		t.Error("the state has another name")
	}
	if other := fresh(t); other.ID() == id {
		t.Error("two states have one name")
	}
	empty := filepath.Join(base, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{empty: "there is no state in it", filepath.Join(base, "none"): "no such file"} {
		if _, err := Check(path); err == nil || !strings.HasSuffix(err.Error(), want) && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
