package statetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

func epochChanges(t *testing.T, e state.Engine) {
	if c, err := e.Control(t.Context()); err != nil || c.Epoch != 0 || len(c.Document) != 0 {
		t.Fatalf("at the beginning %+v, %v", c, err)
	}
	b := read(t, e, batch(1, 2))
	epoch, err := e.SetControl(t.Context(), state.Control{Document: []byte("stop")})
	if err != nil || epoch != 1 {
		t.Fatal(epoch, err)
	}
	b.Rows[0].Next, b.Rows[1].Next = []byte("x"), []byte("x")
	b.Rows[0].Adds[0] = state.Add{Key: Key(10), N: 1, Expires: farAway}
	b.Rows[1].Written = true // of an earlier commit
	if err := e.Commit(t.Context(), b); !errors.Is(err, state.ErrControlChanged) {
		t.Fatalf("committed by the old document: %v", err)
	}
	if b.Rows[0].Written || b.Rows[1].Written || count(t, e, 10) != 0 {
		t.Error("written or counted")
	}
	want(t, e, 1, "")
	if n, err := e.Sequence(t.Context()); err != nil || n != 0 {
		t.Errorf("sequence %d, %v: nothing was written", n, err)
	}
	read(t, e, b)
	if b.Epoch != 1 {
		t.Errorf("epoch %d", b.Epoch)
	}
	commit(t, e, b)
	if !b.Rows[0].Written || b.Sequence != 1 {
		t.Error("not written by the new document")
	}
	b.Epoch = 2 // one that never was
	if err := e.Commit(t.Context(), b); !errors.Is(err, state.ErrControlChanged) {
		t.Error(err)
	}
}

func controlDocument(t *testing.T, e state.Engine) {
	for i, document := range [][]byte{
		[]byte("one"), {}, bytes.Repeat([]byte("0123456789abcdef"), state.MaxControlDoc/16), {0, 0xFF, 0},
	} {
		epoch, err := e.SetControl(t.Context(), state.Control{Epoch: uint64(i), Document: document})
		if err != nil || epoch != uint64(i+1) {
			t.Fatal(epoch, err)
		}
		c, err := e.Control(t.Context())
		if err != nil || c.Epoch != epoch || !bytes.Equal(c.Document, document) {
			t.Fatalf("document of %d bytes: epoch %d, %d bytes, %v", len(document), c.Epoch, len(c.Document), err)
		}
		clear(c.Document) // is the caller's
		if again, err := e.Control(t.Context()); err != nil || !bytes.Equal(again.Document, document) {
			t.Fatalf("the document changed: %v", err)
		}
	}
	if _, err := e.SetControl(t.Context(), state.Control{Epoch: 4, Document: make([]byte, state.MaxControlDoc+1)}); err == nil {
		t.Error("a document that is too long was taken")
	}
	for _, epoch := range []uint64{0, 3, 5} {
		if _, err := e.SetControl(t.Context(), state.Control{Epoch: epoch}); !errors.Is(err, state.ErrControlChanged) {
			t.Errorf("epoch %d: %v", epoch, err)
		}
	}
	if c, err := e.Control(t.Context()); err != nil || c.Epoch != 4 {
		t.Errorf("epoch %d, %v", c.Epoch, err)
	}
}

// Of all that try to follow one epoch, one does.
func setControlRaces(t *testing.T, e state.Engine) {
	const callers, rounds = 16, 10
	for round := range uint64(rounds) {
		var won atomic.Int64
		var winner atomic.Value
		var group sync.WaitGroup
		for g := range callers {
			group.Go(func() {
				document := fmt.Sprint(round, ".", g)
				epoch, err := e.SetControl(t.Context(), state.Control{Epoch: round, Document: []byte(document)})
				switch {
				case err == nil && epoch == round+1:
					won.Add(1)
					winner.Store(document)
				case !errors.Is(err, state.ErrControlChanged):
					t.Errorf("epoch %d, %v", epoch, err)
				}
			})
		}
		group.Wait()
		c, err := e.Control(t.Context())
		if err != nil || won.Load() != 1 || c.Epoch != round+1 || string(c.Document) != winner.Load() {
			t.Fatalf("%d won; epoch %d, %q, %v", won.Load(), c.Epoch, c.Document, err)
		}
	}
}

// patiently sets the document on an engine that is busy: one that could not get
// in between the commits in its time says that it is unavailable.
func patiently(t *testing.T, e state.Engine, c state.Control) error {
	for {
		_, err := e.SetControl(t.Context(), c)
		if !errors.Is(err, state.ErrUnavailable) {
			return err
		}
		now, readErr := e.Control(t.Context())
		if readErr != nil || now.Epoch > c.Epoch {
			return readErr // it had been done
		}
	}
}

// After SetControl has returned, nothing decided by an older document appears.
func commitsRaceWithSetControl(t *testing.T, e state.Engine) {
	const callers, changes = 8, 20
	stop := make(chan struct{})
	var group sync.WaitGroup
	for g := range callers {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				b := read(t, e, batch(g))
				b.Rows[0].Next = fmt.Append(nil, b.Epoch) // says what it was decided by
				if err := e.Commit(t.Context(), b); err != nil && !errors.Is(err, state.ErrControlChanged) {
					t.Error(err)
					return
				}
			}
		})
	}
	for epoch := range uint64(changes) {
		if err := patiently(t, e, state.Control{Epoch: epoch}); err != nil {
			t.Error(err)
			break
		}
		before := batch()
		for g := range callers {
			before.Rows = append(before.Rows, state.Row{Key: Key(g)})
		}
		after := &state.Batch{Rows: append([]state.Row(nil), before.Rows...)}
		read(t, e, before)
		for range 3 {
			read(t, e, after)
		}
		for g := range callers {
			r := &after.Rows[g]
			if r.Version != before.Rows[g].Version && string(r.Record) != fmt.Sprint(epoch+1) {
				t.Errorf("a commit of epoch %s appeared after epoch %d began", r.Record, epoch+1)
			}
		}
	}
	close(stop)
	group.Wait()
}

// Changed may send too often or never; it never blocks, and a hint that nobody
// has taken stops nothing.
func changed(t *testing.T, e state.Engine) {
	if e.Changed() == nil {
		t.Fatal("no channel")
	}
	for epoch := range uint64(5) {
		if _, err := e.SetControl(t.Context(), state.Control{Epoch: epoch}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-e.Changed():
	default:
	}
	put(t, e, 1, "x")
}
