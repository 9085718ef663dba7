package worker

import (
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
)

// Bounds of what is held back while more requests are there. A lone request is
// answered at once; a worker that dies takes with it at most these replies, and
// their requests are then asked of another.
const (
	// heldReplies in one write instead of chunkItems make waking cheap; more
	// would come in bursts that leave the daemon idle between them.
	heldReplies = 64
	// heldTime matters only where more requests wait than replies: they will
	// wait longer.
	heldTime = 6 * time.Millisecond
)

// A held frame is within the protocol's bound.
var _ [frame.MaxBatch - heldReplies - chunkItems]struct{}

// replies are the answers of one connection that are not written yet, as one
// Replies frame.
type replies struct {
	n     int
	since int64 // when the first one was added
	frame []byte
}

// add appends the answers of a chunk.
func (h *replies) add(c *chunk, now int64) {
	if h.n == 0 {
		h.since = now
		h.frame, _ = frame.Begin(h.frame[:0])
	}
	for i := range c.n {
		e := &c.entries[i]
		r := frame.Reply{ID: e.item.ID, Status: e.status}
		if e.status == frame.StatusMatched && e.item.Request.Response.Kind != cryptogram.NoResponse {
			r.ARPCBytes = e.job.Plan.Steps[1].ProduceBytes
			copy(r.ARPC[:r.ARPCBytes], e.job.Outcome.Steps[1].Bytes[:])
		}
		if e.status == frame.StatusMatched || e.status == frame.StatusMismatched {
			r.Subjects = e.job.Subjects
		}
		h.frame = frame.AppendReply(h.frame, &r)
	}
	h.n += c.n
}

// due reports whether the replies must not wait for more. With few requests
// ahead they do not: their clients may have nothing else to send before they
// have the answers, and the token would stand still meanwhile.
func (h *replies) due(now int64, ahead int) bool {
	return h.n >= min(heldReplies, ahead) || now-h.since >= int64(heldTime)
}

// take gives the frame, which stays valid until the next add.
func (h *replies) take() []byte {
	frame.End(h.frame, 0, frame.TypeReplies, h.n)
	h.n = 0
	return h.frame
}
