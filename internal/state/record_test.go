package state_test

import (
	"bytes"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/internal/state"
)

// The memory of a record is reused, so an empty list is as good as none.
var sameRecord = cmpopts.EquateEmpty()

func array[A any](g func(t *rapid.T) A) *rapid.Generator[A] { return rapid.Custom(g) }

func digests() *rapid.Generator[state.Digest] {
	return array(func(t *rapid.T) (d state.Digest) {
		copy(d[:], rapid.SliceOfN(rapid.Byte(), len(d), len(d)).Draw(t, "digest"))
		return d
	})
}

func fourBytes() *rapid.Generator[[4]byte] {
	return array(func(t *rapid.T) (b [4]byte) {
		copy(b[:], rapid.SliceOfN(rapid.Byte(), len(b), len(b)).Draw(t, "bytes"))
		return b
	})
}

func nameHashes() *rapid.Generator[state.NameHash] {
	return array(func(t *rapid.T) (h state.NameHash) {
		copy(h[:], rapid.SliceOfN(rapid.Byte(), len(h), len(h)).Draw(t, "name"))
		return h
	})
}

func windows() *rapid.Generator[state.Window] {
	return array(func(t *rapid.T) state.Window {
		return state.Window{Highest: rapid.Uint16().Draw(t, "highest"), Seen: rapid.Uint64().Draw(t, "seen")}
	})
}

func adviseds() *rapid.Generator[state.Advised] {
	return array(func(t *rapid.T) state.Advised {
		if w := windows().Draw(t, "window"); w.Seen != 0 {
			return state.Advised{Window: w, Last: digests().Draw(t, "last")}
		}
		return state.Advised{}
	})
}

func restrictions() *rapid.Generator[state.Restriction] {
	return array(func(t *rapid.T) state.Restriction {
		codes := rapid.SliceOfN(rapid.Uint16(), 0, state.MaxListed)
		return state.Restriction{
			Device: nameHashes().Draw(t, "device"), Channels: rapid.Byte().Draw(t, "channels") & 0x3E,
			AmountCap: rapid.Uint64().Draw(t, "cap"), Currencies: codes.Draw(t, "currencies"), Categories: codes.Draw(t, "categories"),
			Merchants: rapid.SliceOfN(nameHashes(), 0, state.MaxListed).Draw(t, "merchants"),
			Terminals: rapid.SliceOfN(rapid.Byte(), 0, state.MaxListed).Draw(t, "terminals"),
		}
	})
}

func notes() *rapid.Generator[state.Note] {
	return array(func(t *rapid.T) state.Note {
		return state.Note{
			At: rapid.Int64Min(0).Draw(t, "at"),
			By: rapid.StringN(0, -1, state.MaxNoteText).Draw(t, "by"), Why: rapid.StringN(0, -1, state.MaxNoteText).Draw(t, "why"),
		}
	})
}

func records() *rapid.Generator[state.Record] {
	return array(func(t *rapid.T) state.Record {
		r := state.Record{Status: state.Status(rapid.IntRange(1, 5).Draw(t, "status")), ARQC: windows().Draw(t, "arqc")}
		maybe := func(what string, f func()) {
			if rapid.Bool().Draw(t, what) {
				f()
			}
		}
		maybe("generation", func() { r.Generation = rapid.Uint32().Draw(t, "number") })
		maybe("floor", func() { r.Floor = rapid.Uint16().Draw(t, "atc") })
		maybe("tc", func() { r.TC = adviseds().Draw(t, "advised") })
		maybe("aac", func() { r.AAC = adviseds().Draw(t, "advised") })
		answered := rapid.Bool().Draw(t, "answered")
		for range rapid.IntRange(0, state.MaxAccepted).Draw(t, "accepted") {
			a := state.Accepted{ATC: rapid.Uint16().Draw(t, "atc"), Digest: digests().Draw(t, "digest"), UN: fourBytes().Draw(t, "un")}
			if answered {
				a.Response = fourBytes().Draw(t, "response")
			}
			r.Accepted = append(r.Accepted, a)
		}
		for range rapid.IntRange(0, state.MaxFailing).Draw(t, "failing") {
			r.Failing = append(r.Failing, state.Failing{
				Caller: rapid.Uint32().Draw(t, "caller"), Count: rapid.Byte().Draw(t, "count"), Last: rapid.Uint32().Draw(t, "last"),
			})
		}
		r.Failed = rapid.SliceOfN(digests(), 0, state.MaxFailed).Draw(t, "failed")
		maybe("velocity", func() {
			r.Velocity = state.Velocity{
				Start: rapid.Uint32().Draw(t, "start"), Count: rapid.Uint16().Draw(t, "count"), Amount: rapid.Uint64().Draw(t, "amount"),
			}
		})
		maybe("restricted", func() { r.Restricted = restrictions().Draw(t, "restriction") })
		maybe("note", func() { r.Note = notes().Draw(t, "note") })
		return r
	})
}

// A record that is read is the one that was written, whatever the memory it is
// read into held before; nothing of it is the memory it was read from.
func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := records().Draw(t, "record")
		encoded := want.Append(nil)
		if len(encoded) > state.MaxRecordBytes {
			t.Fatalf("%d bytes", len(encoded))
		}
		before := records().Draw(t, "before")
		var got state.Record
		if err := got.Decode(before.Append(nil)); err != nil {
			t.Fatal(err)
		}
		source := bytes.Clone(encoded)
		if err := got.Decode(source); err != nil {
			t.Fatalf("%x: %v", encoded, err)
		}
		for i := range source {
			source[i] ^= 0xFF
		}
		if diff := cmp.Diff(want, got, sameRecord); diff != "" {
			t.Fatal(diff)
		}
		if again := got.Append([]byte("in front")); string(again) != "in front"+string(encoded) {
			t.Fatalf("encoded again: %x, was %x", again, encoded)
		}
	})
}

// Every record that is cut short, or longer, is damaged; and a record is empty
// after an error, so that nobody goes on with half of one.
func TestRecordTruncated(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := records().Draw(t, "record")
		b := r.Append(nil)
		var got state.Record
		for n := 1; n < len(b); n++ {
			if err := got.Decode(b[:n]); err == nil {
				t.Fatalf("the first %d of %d bytes are a record", n, len(b))
			}
			if got.Status != 0 || got.ARQC != (state.Window{}) || len(got.Accepted)+len(got.Failing)+len(got.Failed) != 0 {
				t.Fatalf("left after an error: %+v", got)
			}
		}
		if err := got.Decode(append(b, 0)); err == nil {
			t.Fatal("a byte too many is a record")
		}
	})
}

func TestRecordDamaged(t *testing.T) {
	t.Parallel()
	active := (&state.Record{Status: state.Active}).Append(nil)
	noted := (&state.Record{Status: state.Active, Note: state.Note{At: 1}}).Append(nil)
	with := func(b []byte, change func(b []byte) []byte) []byte { return change(bytes.Clone(b)) }
	for name, b := range map[string][]byte{
		"version 0":          with(active, func(b []byte) []byte { b[0] = 0; return b }),
		"version 2":          with(active, func(b []byte) []byte { b[0] = 2; return b }),
		"no status":          with(active, func(b []byte) []byte { b[1] &^= 7; return b }),
		"status 6":           with(active, func(b []byte) []byte { b[1] = b[1]&^7 | 6; return b }),
		"a generation of 0":  with(active, func(b []byte) []byte { b[1] |= 1 << 3; return append(b, 0, 0, 0, 0) }),
		"a floor of 0":       with(active, func(b []byte) []byte { b[1] |= 1 << 4; return append(b, 0, 0) }),
		"no failures":        with(active, func(b []byte) []byte { b[2] |= 1; return append(b, 0, 0) }),
		"too many failing":   with(active, func(b []byte) []byte { b[2] |= 1; return append(b, make([]byte, 2+9*5)...) }),
		"a longer varint":    with(noted, func(b []byte) []byte { return append(b[:13], 0x81, 0x00, 0, 0) }),
		"a negative time":    with(noted, func(b []byte) []byte { return append(append(b[:13], bytes.Repeat([]byte{0xFF}, 9)...), 1, 0, 0) }),
		"an unending varint": with(noted, func(b []byte) []byte { return append(b[:13], bytes.Repeat([]byte{0xFF}, 12)...) }),
	} {
		if err := new(state.Record).Decode(b); err == nil {
			t.Errorf("%s: %x is a record", name, b)
		}
	}
	var r state.Record
	if err := r.Decode(nil); err != nil || r.Status != 0 || r.Known() {
		t.Errorf("no record: %v, %+v", err, r)
	}
}

// Sizes that engines and capacity plans rest on.
func TestRecordSizes(t *testing.T) {
	t.Parallel()
	var common state.Record
	for i := range 3 {
		e := tap(uint16(i+1), respondable)
		if o, _ := state.Next(&common, &e); o.Result != state.Accept {
			t.Fatalf("%+v", o)
		}
		e = tap(uint16(i+1), responds(byte(i+1)))
		if o, _ := state.Next(&common, &e); o.Result != state.Accept {
			t.Fatalf("%+v", o)
		}
	}
	if n := len(common.Append(nil)); n > 64 {
		t.Errorf("an active token with three answered requests has %d bytes, more than 64", n)
	}
	full := fullestRecord()
	b := full.Append(nil)
	if len(b) > state.MaxRecordBytes {
		t.Errorf("the fullest record has %d bytes, more than %d", len(b), state.MaxRecordBytes)
	}
	if err := new(state.Record).Decode(b); err != nil {
		t.Errorf("the fullest record: %v", err)
	}
	t.Logf("common case %d bytes, fullest %d", len(common.Append(nil)), len(b))
}

// fullestRecord has everything that Next and changes can put into a record.
func fullestRecord() *state.Record {
	advised := state.Advised{Window: state.Window{Highest: 9, Seen: 1}}
	text := strings.Repeat("w", state.MaxNoteText)
	r := &state.Record{
		Generation: 1, Floor: 1, ARQC: advised.Window, TC: advised, AAC: advised,
		Accepted: make([]state.Accepted, state.MaxAccepted), Failing: make([]state.Failing, state.MaxFailing),
		Failed: make([]state.Digest, state.MaxFailed), Velocity: state.Velocity{Count: 1},
		Status: state.Active,
	}
	r.Accepted[0].Response[0] = 1
	c := state.Change{
		Status: state.Suspended, Note: state.Note{At: math.MaxInt64, By: text, Why: text},
		Restrict: &state.Restriction{
			Device: state.NameHash{1}, Channels: 0x3E, AmountCap: math.MaxUint64,
			Currencies: make([]uint16, state.MaxListed), Categories: make([]uint16, state.MaxListed),
			Merchants: make([]state.NameHash, state.MaxListed), Terminals: make([]uint8, state.MaxListed),
		},
	}
	if err := c.Apply(r, 1); err != nil {
		panic(err)
	}
	return r
}

// Whatever bytes an engine gives back: a record that is read says exactly that
// when it is written, and can be decided on.
func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte{})
	f.Add((&state.Record{Status: state.Active}).Append(nil))
	f.Add(state.Tombstone().Append(nil))
	f.Add(fullestRecord().Append(nil))
	var r state.Record
	e := tap(7)
	state.Next(&r, &e)
	f.Add(r.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r state.Record
		if r.Decode(b) != nil || len(b) == 0 {
			return
		}
		if got := r.Append(nil); !bytes.Equal(got, b) {
			t.Fatalf("read %x, wrote %x", b, got)
		}
		status := r.Status
		for _, e := range []state.Event{tap(7), tap(7, mismatched), tap(7, purpose(state.Advice)), tap(0xFFFF, policy(func(p *state.Policy) { p.Mode = state.Observe }))} {
			o, changed := state.Next(&r, &e)
			if o.Result == state.Accept && (status == state.Suspended || status == state.Deleted || status == state.Moved) {
				t.Fatalf("status %d, and accepted", status)
			}
			if !changed {
				continue
			}
			var again state.Record
			if err := again.Decode(r.Append(nil)); err != nil || len(r.Append(nil)) > state.MaxRecordBytes {
				t.Fatalf("what Next made of %x cannot be kept: %v", b, err)
			}
		}
	})
}
