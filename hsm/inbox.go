package hsm

import (
	"fmt"
	"io"

	"github.com/tapseal/tapseal/hsm/frame"
)

// inboxBytes is the most that one read takes. It holds the largest frame that
// a worker may send after the handshake, 8 + 256 × 93 bytes, and several of
// those that it does send.
const inboxBytes = 32 << 10

var _ [inboxBytes - frame.HeaderBytes - frame.MaxBatch*frame.ReplyBytes]struct{}

// An inbox is what one read of a connection brought, decoded.
type inbox struct {
	buf      [inboxBytes]byte
	filled   int
	replies  []frame.Reply
	healthy  []frame.SubjectsReply // without subjects
	subjects []frame.SubjectsReply
	goAway   bool
}

// fill reads once and decodes the whole frames. It reports whether there was
// anything, also beside an error: frames before the fault are good.
func (in *inbox) fill(r io.Reader) (bool, error) {
	in.replies, in.healthy, in.subjects, in.goAway = in.replies[:0], in.healthy[:0], in.subjects[:0], false
	n, err := r.Read(in.buf[in.filled:])
	in.filled += n
	used := 0
	for err == nil {
		var took int
		took, err = in.decode(in.buf[used:in.filled])
		if took == 0 {
			break
		}
		used += took
	}
	in.filled = copy(in.buf[:], in.buf[used:in.filled])
	return used > 0, err
}

// decode takes one frame from the front of b and returns its length, 0 if it
// is not whole yet. Nothing of a bad frame counts.
func (in *inbox) decode(b []byte) (int, error) {
	if len(b) < frame.HeaderBytes {
		return 0, nil
	}
	h, err := frame.ParseHeader(b)
	if err != nil {
		return 0, err
	}
	end := frame.HeaderBytes + int(h.PayloadBytes)
	switch h.Type {
	case frame.TypeReplies, frame.TypeHealthy, frame.TypeSubjects, frame.TypeGoAway:
	default:
		return 0, fmt.Errorf("%w: type %d from a worker", frame.ErrFrame, h.Type)
	}
	if len(b) < end {
		return 0, nil
	}
	if err := in.decodePayload(h, b[frame.HeaderBytes:end]); err != nil {
		return 0, err
	}
	return end, nil
}

func (in *inbox) decodePayload(h frame.Header, b []byte) error {
	switch h.Type {
	case frame.TypeReplies:
		return in.decodeReplies(b, int(h.Count))
	case frame.TypeHealthy:
		id, status, err := frame.DecodeHealthy(b)
		if err != nil {
			return err
		}
		in.healthy = append(in.healthy, frame.SubjectsReply{ID: id, Status: status})
	case frame.TypeSubjects:
		r, err := frame.DecodeSubjects(b)
		if err != nil {
			return err
		}
		in.subjects = append(in.subjects, r)
	case frame.TypeGoAway:
		in.goAway = true
	}
	return nil
}

func (in *inbox) decodeReplies(b []byte, count int) error {
	before := len(in.replies)
	for range count {
		var r frame.Reply
		rest, err := frame.DecodeReply(b, &r)
		if err != nil {
			in.replies = in.replies[:before]
			return err
		}
		in.replies = append(in.replies, r)
		b = rest
	}
	return nil
}
