package statetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// A Medium is what engines keep the state on, one after another, under one
// instance's name.
type Medium struct {
	// Open opens an engine on it, after Crash or after the last one was closed.
	Open func(t *testing.T) state.Engine
	// Crash ends the engine that is open without a word, as a power cut or the
	// end of the process would. Calls under way may fail or hang until then.
	Crash func(t *testing.T)
	// Save keeps what is on the medium now, and gives the function that puts it
	// back while no engine is open. Nil if the medium has no such thing.
	Save func(t *testing.T) (restore func(t *testing.T))
}

// Durability is what of the contract shows only over more than one engine.
// medium gives an empty one for each test.
func Durability(t *testing.T, medium func(t *testing.T) Medium) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, m Medium)
	}{
		{"ClosedAndOpened", func(t *testing.T, m Medium) { staysThere(t, m, true) }},
		{"Crashed", func(t *testing.T, m Medium) { staysThere(t, m, false) }},
		{"CrashedUnderLoad", crashedUnderLoad},
		{"RegressionIsAccepted", regressionIsAccepted},
		{"OlderCopy", olderCopy},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, medium(t)) })
	}
}

func (m Medium) end(t *testing.T, e state.Engine, properly bool) {
	t.Helper()
	if !properly {
		m.Crash(t)
		return
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// staysThere: all that was acknowledged, and versions go on.
func staysThere(t *testing.T, m Medium, properly bool) {
	e := m.Open(t)
	put(t, e, 1, "one")
	put(t, e, 1, "two")
	if _, err := e.SetControl(t.Context(), state.Control{Document: []byte("document")}); err != nil {
		t.Fatal(err)
	}
	b := batch(1)
	b.Rows[0].Also = &state.Row{Key: Key(2)}
	read(t, e, b)
	b.Rows[0].Next, b.Rows[0].Also.Next = []byte("three"), []byte("partner")
	b.Rows[0].Adds[0] = state.Add{Key: Key(10), N: 7, Expires: farAway}
	commit(t, e, b)
	last := read(t, e, batch(1)).Rows[0].Version
	for round := range uint64(4) {
		m.end(t, e, properly)
		e = m.Open(t)
		want(t, e, 2, "partner")
		if n := count(t, e, 10); n != 7 {
			t.Errorf("counted %d, want 7", n)
		}
		if c, err := e.Control(t.Context()); err != nil || c.Epoch != 1 || string(c.Document) != "document" {
			t.Errorf("epoch %d, %q, %v", c.Epoch, c.Document, err)
		}
		if n, err := e.Sequence(t.Context()); err != nil || n != 3+round {
			t.Errorf("sequence %d, %v, want %d", n, err, 3+round)
		}
		b := read(t, e, batch(1))
		if b.Rows[0].Version != last || b.Epoch != 1 {
			t.Errorf("version %d, epoch %d", b.Rows[0].Version, b.Epoch)
		}
		b.Rows[0].Next = fmt.Append(nil, round)
		commit(t, e, b)
		if !b.Rows[0].Written || b.Sequence != 4+round {
			t.Errorf("written %v, sequence %d", b.Rows[0].Written, b.Sequence)
		}
		last = read(t, e, batch(1)).Rows[0].Version
	}
}

// crashedUnderLoad: callers remember what was acknowledged; after the crash it is
// there, or something that was sent later.
func crashedUnderLoad(t *testing.T, m Medium) {
	const callers, crashes = 16, 3
	acknowledged := make([]int, callers) // of each caller's pair of records
	attempted := make([]int, callers)
	var sequence uint64
	for range crashes {
		e := m.Open(t)
		checkAfterCrash(t, e, acknowledged, attempted, sequence)
		var mu sync.Mutex
		var group sync.WaitGroup
		enough := make(chan struct{})
		done := 0
		for g := range callers {
			group.Go(func() {
				for {
					b := batch(2*g, 2*g+1)
					if e.Read(t.Context(), b) != nil {
						return
					}
					n := attempted[g] + 1
					for i := range b.Rows {
						b.Rows[i].Next = fmt.Appendf(nil, "%08d", n)
						b.Rows[i].Adds[0] = state.Add{Key: Key(1000 + g), N: 1, Expires: farAway}
					}
					attempted[g] = n
					if e.Commit(t.Context(), b) != nil {
						return
					}
					acknowledged[g] = n
					mu.Lock()
					sequence = max(sequence, b.Sequence)
					if done++; done == 300 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		m.Crash(t)
		group.Wait()
	}
	e := m.Open(t)
	checkAfterCrash(t, e, acknowledged, attempted, sequence)
}

// checkAfterCrash takes what is there as known from then on.
func checkAfterCrash(t *testing.T, e state.Engine, acknowledged, attempted []int, sequence uint64) {
	t.Helper()
	for g := range acknowledged {
		b := read(t, e, batch(2*g, 2*g+1))
		var n int
		_, _ = fmt.Sscanf(string(b.Rows[0].Record), "%d", &n)
		if n < acknowledged[g] || n > attempted[g] {
			t.Errorf("caller %d: %d is there, %d was acknowledged, %d tried", g, n, acknowledged[g], attempted[g])
		}
		if string(b.Rows[0].Record) != string(b.Rows[1].Record) {
			t.Errorf("caller %d: a commit is half there: %q, %q", g, b.Rows[0].Record, b.Rows[1].Record)
		}
		if c := count(t, e, 1000+g); c != b.Rows[0].Version+b.Rows[1].Version {
			t.Errorf("caller %d: %d counted, versions are %d and %d", g, c, b.Rows[0].Version, b.Rows[1].Version)
		}
		acknowledged[g], attempted[g] = n, n
	}
	if n, err := e.Sequence(t.Context()); err != nil || n < sequence {
		t.Errorf("sequence %d, %v, but %d was acknowledged", n, err, sequence)
	}
}

func regressionIsAccepted(t *testing.T, m Medium) {
	e := m.Open(t)
	put(t, e, 1, "x")
	if err := e.AcceptRegression(t.Context(), 5000); err != nil {
		t.Fatal(err)
	}
	m.Crash(t)
	e = m.Open(t)
	b := read(t, e, batch(1))
	b.Rows[0].Next = []byte("y")
	commit(t, e, b)
	if b.Sequence != 5001 || !b.Rows[0].Written {
		t.Errorf("the next commit is %d", b.Sequence)
	}
}

// olderCopy: an engine on an older copy of its medium says so by its sequence,
// and what is accepted makes it go on above what was acknowledged.
func olderCopy(t *testing.T, m Medium) {
	if m.Save == nil {
		return
	}
	e := m.Open(t)
	put(t, e, 1, "old")
	m.end(t, e, true)
	restore := m.Save(t)
	e = m.Open(t)
	for range 10 {
		put(t, e, 1, "new")
	}
	acknowledged, err := e.Sequence(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m.end(t, e, true)
	restore(t)
	e = m.Open(t)
	n, err := e.Sequence(t.Context())
	if n >= acknowledged || err != nil && !errors.Is(err, state.ErrRegressed) {
		t.Fatalf("sequence %d, %v, of a copy that is older than %d", n, err, acknowledged)
	}
	if err := e.AcceptRegression(t.Context(), acknowledged); err != nil {
		t.Fatal(err)
	}
	want(t, e, 1, "old")
	b := read(t, e, batch(1))
	b.Rows[0].Next = []byte("again")
	commit(t, e, b)
	if b.Sequence != acknowledged+1 || !b.Rows[0].Written {
		t.Errorf("the next commit is %d", b.Sequence)
	}
}
