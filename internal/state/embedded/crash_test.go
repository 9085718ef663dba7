package embedded

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/statetest"
)

// Power cuts are those of Pebble's file system in memory, which forgets what was
// not synced, all of it or any part.
func TestDurability(t *testing.T) {
	for _, kept := range []int{0, 50} { // percent of unsynced data that reach the medium
		t.Run(fmt.Sprint(kept), func(t *testing.T) {
			statetest.Durability(t, func(*testing.T) statetest.Medium {
				return powerCuts(vfs.NewCrashableMem(), kept)
			})
		})
	}
}

func powerCuts(disk *vfs.MemFS, kept int) statetest.Medium {
	var running *Engine
	return statetest.Medium{
		Open: func(t *testing.T) state.Engine {
			running = open(t, memDir, Options{fs: inMemory(t, disk)})
			return running
		},
		Crash: func(*testing.T) {
			running.medium.poison("the power is cut", nil) // nothing is acknowledged any more
			disk = disk.CrashClone(random(kept))
		},
		Save: func(*testing.T) func(*testing.T) {
			saved := disk.CrashClone(random(100))
			return func(*testing.T) { disk = saved }
		},
	}
}

// The process is killed, again and again, while it commits.
func TestKilled(t *testing.T) {
	kills := 30
	if os.Getenv("TAPSEAL_LONG") != "" {
		kills = 100
	}
	dir := filepath.Join(t.TempDir(), "state")
	acknowledged := make([]int, killCallers)
	tried := make([]int, killCallers)
	total := 0
	for kill := range kills {
		total += runAndKill(t, dir, 20+kill*13%200, acknowledged, tried)
		e := open(t, dir, Options{})
		for g := range killCallers {
			checkKilled(t, e, g, acknowledged, tried)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		if t.Failed() {
			t.Fatalf("after kill %d", kill+1)
		}
	}
	t.Logf("%d kills, %d acknowledged commits", kills, total)
}

const (
	killEnv     = "TAPSEAL_TEST_COMMIT_IN"
	killCallers = 8
	killRows    = 8
)

// runAndKill starts the child and kills it after so many acknowledged commits.
func runAndKill(t *testing.T, dir string, commits int, acknowledged, tried []int) int {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildCommits$")
	child.Env = append(os.Environ(), killEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for lines := bufio.NewScanner(out); lines.Scan(); { // to the end: what it could still say counts
		var what string
		var g, n int
		if _, err := fmt.Sscanf(lines.Text(), "%s %d %d", &what, &g, &n); err != nil {
			t.Errorf("the child says %q", lines.Text())
			break
		}
		switch what {
		case "try":
			tried[g] = n
		case "ok":
			acknowledged[g] = n
			if seen++; seen == commits {
				_ = child.Process.Kill()
			}
		}
	}
	_ = child.Wait()
	if seen < commits {
		t.Fatalf("the child ended after %d commits", seen)
	}
	return seen
}

func checkKilled(t *testing.T, e *Engine, g int, acknowledged, tried []int) {
	t.Helper()
	b := killBatch(g)
	if err := e.Read(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	n := killNumber(b)
	if n < acknowledged[g] || n > tried[g] {
		t.Errorf("caller %d: %d is there, %d was acknowledged, %d tried", g, n, acknowledged[g], tried[g])
	}
	for i := range b.Rows {
		for _, r := range []*state.Row{&b.Rows[i], b.Rows[i].Also} {
			if string(r.Record) != string(b.Rows[0].Record) {
				t.Errorf("caller %d: a commit is torn: %q and %q", g, r.Record, b.Rows[0].Record)
			}
		}
	}
	if b.Counters[0].Value != uint64(n*killRows) {
		t.Errorf("caller %d: counted %d in %d commits", g, b.Counters[0].Value, n)
	}
	acknowledged[g], tried[g] = n, n
}

func killBatch(g int) *state.Batch {
	b := &state.Batch{Counters: []state.Counter{{Key: statetest.Key(9000 + g)}}}
	for i := range killRows {
		k := 100*g + 2*i
		b.Rows = append(b.Rows, state.Row{Key: statetest.Key(k), Also: &state.Row{Key: statetest.Key(k + 1)}})
	}
	return b
}

func killNumber(b *state.Batch) (n int) {
	_, _ = fmt.Sscanf(string(b.Rows[0].Record), "%d", &n)
	return n
}

// TestChildCommits is the child of TestKilled: it commits until it is killed, and
// says before and after each commit which one it is.
func TestChildCommits(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return
	}
	e, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	say := func(what string, g, n int) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintf(os.Stdout, "%s %d %d\n", what, g, n) // one write: no half lines
	}
	var group sync.WaitGroup
	for g := range killCallers {
		group.Go(func() { childCaller(e, g, say) })
	}
	group.Wait()
	t.Error("nobody killed it")
}

func childCaller(e *Engine, g int, say func(what string, g, n int)) {
	for {
		b := killBatch(g)
		if e.Read(context.Background(), b) != nil {
			return
		}
		n := killNumber(b) + 1
		for i := range b.Rows {
			r := &b.Rows[i]
			r.Next = []byte(fmt.Sprintf("%d %s", n, strings.Repeat("x", n%60)))
			r.Also.Next = r.Next
			r.Adds[0] = state.Add{Key: b.Counters[0].Key, N: 1, Expires: 1 << 40}
		}
		say("try", g, n)
		if e.Commit(context.Background(), b) != nil {
			return
		}
		say("ok", g, n)
	}
}
