package state

import (
	"fmt"
	"testing"
)

func TestLosses(t *testing.T) {
	r := &Rules{}
	if r.Lost() != nil {
		t.Fatal("new rules have a loss")
	}
	loss := func(n uint64) Loss { return Loss{Instance: "a", Acknowledged: n} }
	for _, c := range []struct {
		n   uint64
		new bool
	}{{5, true}, {5, false}, {4, false}, {6, true}} {
		if got := r.Lose(loss(c.n)); got != c.new {
			t.Errorf("commit %d: new %v", c.n, got)
		}
	}
	if len(r.Losses) != 1 || r.Lost() == nil || r.Lost().Acknowledged != 6 {
		t.Fatalf("%+v", r.Losses)
	}
	r.Restored(1, 0)
	if r.Lost() != nil || r.Lose(loss(6)) || r.Lost() != nil {
		t.Error("an accepted loss came back")
	}
	if !r.Lose(loss(7)) || r.Lost() == nil {
		t.Error("a new loss after an accepted one")
	}
	document, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	read, err := ParseRules(document)
	if err != nil || read.Lost() == nil || *read.Lost() != *r.Lost() {
		t.Errorf("read back %+v, %v", read, err)
	}
}

// Accepted ones make room, others never.
func TestLossesAreBounded(t *testing.T) {
	r := &Rules{}
	r.Lose(Loss{Instance: "open", Acknowledged: 1})
	for i := range 3 * maxLosses {
		r.Lose(Loss{Instance: fmt.Sprint(i), Acknowledged: 1})
		r.Losses[len(r.Losses)-1].Accepted = true
	}
	if len(r.Losses) > maxLosses || r.Lost() == nil || r.Lost().Instance != "open" {
		t.Errorf("%d losses, %+v", len(r.Losses), r.Lost())
	}
	for i := range 3 * maxLosses {
		r.Lose(Loss{Instance: fmt.Sprint("more", i), Acknowledged: 1})
	}
	if len(r.Losses) > maxLosses || r.Lost() == nil {
		t.Errorf("%d losses, %+v", len(r.Losses), r.Lost())
	}
}
