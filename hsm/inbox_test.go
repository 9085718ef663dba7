package hsm

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/hsm/frame"
)

// pieces gives its bytes in reads of n.
type pieces struct {
	b []byte
	n int
}

func (p *pieces) Read(dst []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(dst, p.b[:min(p.n, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

// drain reads to the end or to the first fault.
func drain(r io.Reader) (replies []frame.Reply, healthy []frame.SubjectsReply, goAways int, err error) {
	var in inbox
	for err == nil {
		_, err = in.fill(r)
		replies = slices.Concat(replies, in.replies)
		healthy = slices.Concat(healthy, in.healthy, in.subjects)
		if in.goAway {
			goAways++
		}
	}
	return replies, healthy, goAways, err
}

// Whatever a worker sends, and however the socket cuts it, the pool sees the
// same replies, none with a status or response cryptogram that cannot be.
func FuzzInbox(f *testing.F) {
	good, start := frame.Begin(nil)
	good = frame.AppendReply(good, &frame.Reply{ID: 1, Status: frame.StatusMatched, ARPCBytes: 8, ARPC: [8]byte{1}})
	good = frame.AppendReply(good, &frame.Reply{
		ID: 2, Status: frame.StatusMismatched, Subjects: [2]Subject{{Version: 2, Hash: [32]byte{1}}, {Version: 1, Hash: [32]byte{2}}},
	})
	frame.End(good, start, frame.TypeReplies, 2)
	good = frame.AppendHealthy(good, 1, frame.StatusTokenFailure)
	good = frame.AppendSubjects(good, &frame.SubjectsReply{
		ID: 2, Status: frame.StatusMatched, Subjects: [2]Subject{{Version: 1, Hash: [32]byte{1}}},
	})
	f.Add(frame.AppendGoAway(good), 5)
	f.Add(good[:len(good)-1], 1)
	f.Add(frame.AppendHello(good), 100)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n <= 0 {
			return
		}
		whole, wholeHealthy, _, wholeErr := drain(bytes.NewReader(b))
		cut, cutHealthy, _, cutErr := drain(&pieces{b, n})
		if !cmp.Equal(whole, cut) || !slices.Equal(wholeHealthy, cutHealthy) || errors.Is(wholeErr, io.EOF) != errors.Is(cutErr, io.EOF) {
			t.Error("the cut changes what is read")
		}
		for _, r := range whole {
			if r.Status != frame.StatusMatched && r.ARPCBytes != 0 {
				t.Error("response cryptogram beside no match")
			}
			if r.Status != frame.StatusMatched && r.Status != frame.StatusMismatched && r.Subjects != ([2]Subject{}) {
				t.Error("subject beside no comparison")
			}
		}
	})
}
