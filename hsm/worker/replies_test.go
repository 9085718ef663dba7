package worker

import (
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
)

func TestRepliesAreDue(t *testing.T) {
	var h replies
	if h.due(int64(time.Hour)) {
		t.Error("nothing is due")
	}
	c := chunk{n: chunkItems}
	for i := range c.entries {
		c.entries[i].status = frame.StatusMismatched
	}
	const began = int64(time.Hour)
	h.add(&c, began)
	if h.due(began + int64(heldTime) - 1) {
		t.Error("due before the time")
	}
	if !h.due(began + int64(heldTime)) {
		t.Error("not due when the first has waited long enough")
	}
	chunks := 1
	for ; !h.due(began); chunks++ {
		h.add(&c, began)
	}
	if got, want := chunks*chunkItems, heldReplies; got != want {
		t.Errorf("due with %d replies, want %d", got, want)
	}
	b := h.take()
	f, err := frame.ParseHeader(b)
	if err != nil || int(f.Count) != heldReplies || len(b) != frame.HeaderBytes+int(f.PayloadBytes) {
		t.Errorf("frame of %d bytes with %d replies, error %v", len(b), f.Count, err)
	}
	if h.due(began + int64(time.Hour)) {
		t.Error("due after they were taken")
	}
	h.add(&c, began+int64(time.Hour))
	if h.due(began + int64(time.Hour)) {
		t.Error("the time of the replies before counts")
	}
}
