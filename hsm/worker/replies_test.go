package worker

import (
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
)

func TestRepliesAreDue(t *testing.T) {
	const began = int64(time.Hour)
	c := chunk{n: chunkItems}
	for i := range c.entries {
		c.entries[i].status = frame.StatusMismatched
	}
	for _, tc := range []struct {
		name   string
		chunks int
		ahead  int // requests in the buffer
		waited time.Duration
		want   bool
	}{
		{"many ahead", 1, 100, 0, false},
		{"many ahead, nearly too long", 1, 100, heldTime - 1, false},
		{"many ahead, too long", 1, 100, heldTime, true},
		{"nearly enough", heldReplies/chunkItems - 1, 1000, 0, false},
		{"enough", heldReplies / chunkItems, 1000, 0, true},
		{"more ahead than held", 2, 2*chunkItems + 1, 0, false},
		{"as many ahead as held", 2, 2 * chunkItems, 0, true},
		{"none ahead", 1, 0, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var h replies
			for range tc.chunks {
				h.add(&c, began)
			}
			if got := h.due(began+int64(tc.waited), tc.ahead); got != tc.want {
				t.Errorf("due %v, want %v", got, tc.want)
			}
		})
	}
}

func TestTakenReplies(t *testing.T) {
	c := chunk{n: 3}
	for i := range c.entries {
		c.entries[i].item.ID = uint64(i + 1)
		c.entries[i].status = frame.StatusMismatched
	}
	var h replies
	for range 2 { // the second time in the memory of the first
		h.add(&c, 0)
		h.add(&c, int64(time.Hour))
		if h.since != 0 {
			t.Error("the time counts from the first")
		}
		b := h.take()
		f, err := frame.ParseHeader(b)
		if err != nil || f.Type != frame.TypeReplies || f.Count != 6 || len(b) != frame.HeaderBytes+int(f.PayloadBytes) {
			t.Errorf("frame of %d bytes, header %+v, error %v", len(b), f, err)
		}
		if h.n != 0 {
			t.Error("they are still there")
		}
	}
}
