package hsm

import (
	"testing"

	"pgregory.net/rapid"
)

// The ring behaves as a map from ids to calls would.
func TestPendingIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ring := newPending()
		model := make(map[uint64]*Call)
		var last uint64
		now := int64(1000)
		anyID := rapid.Uint64Range(0, 3000)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 200).Draw(t, "n") {
					c := &Call{state: callState{deadline: now + rapid.Int64Range(-5, 100).Draw(t, "timeout")}}
					id := ring.add(c, now)
					if id != last+1 {
						t.Fatalf("id %d after %d", id, last)
					}
					last, model[id] = id, c
				}
			},
			"remove": func(t *rapid.T) {
				id := anyID.Draw(t, "id")
				if ring.get(id) != model[id] {
					t.Fatalf("call %d differs", id)
				}
				if model[id] != nil {
					ring.remove(id)
					delete(model, id)
				}
			},
			"expire": func(t *rapid.T) {
				now += rapid.Int64Range(0, 60).Draw(t, "time")
				checkTaken(t, model, ring.expire(now, nil), func(_ uint64, c *Call) bool { return c.state.deadline <= now })
			},
			"take": func(t *rapid.T) {
				from := anyID.Draw(t, "from")
				checkTaken(t, model, ring.takeFrom(from, nil), func(id uint64, _ *Call) bool { return id >= from })
			},
			"": func(t *rapid.T) { checkRing(t, &ring, model) },
		})
	})
}

// checkTaken removes from the model what should have been taken.
func checkTaken(t *rapid.T, model map[uint64]*Call, taken []*Call, due func(uint64, *Call) bool) {
	want := make(map[*Call]bool)
	for id, c := range model {
		if due(id, c) {
			want[c] = true
			delete(model, id)
		}
	}
	for _, c := range taken {
		if !want[c] {
			t.Fatal("a call was taken that was not due, or twice")
		}
		delete(want, c)
	}
	if len(want) > 0 {
		t.Fatalf("%d calls were not taken", len(want))
	}
}

func checkRing(t *rapid.T, ring *pending, model map[uint64]*Call) {
	if ring.n != len(model) {
		t.Fatalf("%d calls, want %d", ring.n, len(model))
	}
	for id, c := range model {
		if ring.get(id) != c {
			t.Fatalf("call %d differs", id)
		}
		if ring.soonest > c.state.deadline {
			t.Fatalf("call %d is due before the soonest", id)
		}
	}
	if _, busy := ring.oldestSent(); busy != (len(model) > 0) {
		t.Fatal("wrong about having an oldest call")
	}
}
