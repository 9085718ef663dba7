package frame

import (
	"bytes"
	"testing"
)

// Whatever decodes must encode to the same bytes again: there is one encoding
// of everything.
func FuzzFrame(f *testing.F) {
	for _, b := range oneOfEach(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, err := decodeFrame(b)
		if err == nil && !bytes.Equal(again, b) {
			t.Error("decoded frame encodes differently")
		}
	})
}

func FuzzHeader(f *testing.F) {
	for _, b := range oneOfEach(f) {
		f.Add(b[:HeaderBytes])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderBytes {
			return
		}
		h, err := ParseHeader(b)
		if err != nil {
			return
		}
		var again [HeaderBytes]byte
		if h.Put(again[:]); !bytes.Equal(again[:], b[:HeaderBytes]) {
			t.Error("parsed header encodes differently")
		}
	})
}

func FuzzItem(f *testing.F) {
	it := maximalItem(f)
	f.Add(AppendItem(nil, &it))
	f.Add(oneOfEach(f)["verify"][HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var it Item
		rest, err := DecodeItem(b, &it)
		if err != nil {
			return
		}
		if !Encodable(&it.Request) {
			t.Error("decoded item is not encodable")
		}
		if !bytes.Equal(AppendItem(nil, &it), b[:len(b)-len(rest)]) {
			t.Error("decoded item encodes differently")
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add(oneOfEach(f)["replies"][HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		var r Reply
		rest, err := DecodeReply(b, &r)
		if err != nil {
			return
		}
		if !r.Status.known() {
			t.Error("unknown status")
		}
		if r.Subjects[0].Version != 0 && r.Status != StatusMatched && r.Status != StatusMismatched {
			t.Error("subject beside no comparison")
		}
		if !bytes.Equal(AppendReply(nil, &r), b[:len(b)-len(rest)]) {
			t.Error("decoded reply encodes differently")
		}
	})
}

func FuzzHandshake(f *testing.F) {
	all := oneOfEach(f)
	f.Add(all["welcome"][HeaderBytes:], uint16(0))
	f.Add(all["hello"][HeaderBytes:], uint16(0))
	f.Add(all["key table"][HeaderBytes:], uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, count uint16) {
		if w, err := DecodeWelcome(b); err == nil && !bytes.Equal(AppendWelcome(nil, &w)[HeaderBytes:], b) {
			t.Error("decoded welcome encodes differently")
		}
		if err := DecodeHello(b); err == nil && !bytes.Equal(AppendHello(nil)[HeaderBytes:], b) {
			t.Error("decoded hello encodes differently")
		}
		entries, err := DecodeKeyTable(b, int(count), nil)
		if err != nil {
			return
		}
		var again []byte
		for i := range entries {
			again = appendKeyEntry(again, &entries[i])
		}
		if !bytes.Equal(again, b) {
			t.Error("decoded key table encodes differently")
		}
	})
}

func FuzzSubject(f *testing.F) {
	all := oneOfEach(f)
	f.Add(all["subject"][HeaderBytes:])
	f.Add(all["subjects"][HeaderBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		id, pan, psn, err := DecodeSubject(b)
		if err == nil && !bytes.Equal(AppendSubject(nil, id, &pan, psn)[HeaderBytes:], b) {
			t.Error("decoded subject encodes differently")
		}
		r, err := DecodeSubjects(b)
		if err != nil {
			return
		}
		if !bytes.Equal(AppendSubjects(nil, &r)[HeaderBytes:], b) {
			t.Error("decoded subjects encode differently")
		}
		if (r.Status == StatusMatched) != (r.Subjects[0].Version != 0) {
			t.Error("an answer without its subject, or a subject without the answer")
		}
	})
}
