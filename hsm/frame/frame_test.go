package frame

import (
	"bytes"
	"errors"
	"io"
	"math/bits"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/keys"
)

var comparePANs = cmp.Options{
	cmp.Comparer(func(a, b cryptogram.PAN) bool { return a == b }),
	cmp.Comparer(func(a, b cryptogram.PSN) bool { return a == b }),
}

func statuses() []Status {
	return []Status{
		StatusMatched, StatusMismatched, StatusKeyUnknown, StatusKeyUnproven, StatusKeyInactive,
		StatusNotBound, StatusMalformed, StatusGuessLimit, StatusExpired, StatusTokenFailure,
	}
}

func draw(t *rapid.T, name string, dst []byte) {
	copy(dst, rapid.SliceOfN(rapid.Byte(), len(dst), len(dst)).Draw(t, name))
}

func drawItem(t *rapid.T) Item {
	var it Item
	it.ID = rapid.Uint64().Draw(t, "id")
	it.Deadline = rapid.Int64().Draw(t, "deadline")
	draw(t, "key", it.Key[:])
	it.Caller = rapid.Uint32().Draw(t, "caller")
	r := &it.Request
	r.Profile = cryptogram.ProfileID(rapid.Uint16().Draw(t, "profile"))
	r.KeyOption = cryptogram.KeyOption(rapid.Byte().Draw(t, "option"))
	var err error
	if r.PAN, err = cryptogram.ParsePAN(rapid.StringMatching("[0-9]{12,19}").Draw(t, "pan")); err != nil {
		t.Fatal(err)
	}
	if r.PSN, err = cryptogram.ParsePSN(rapid.StringMatching("[0-9]{2}").Draw(t, "psn")); err != nil {
		t.Fatal(err)
	}
	drawTransaction(t, &r.Data)
	r.IAD.Len = uint8(rapid.IntRange(0, len(r.IAD.Bytes)).Draw(t, "iad length"))
	draw(t, "iad", r.IAD.Bytes[:r.IAD.Len])
	r.CVR.Len = uint8(rapid.IntRange(0, len(r.CVR.Bytes)).Draw(t, "cvr length"))
	draw(t, "cvr", r.CVR.Bytes[:r.CVR.Len])
	draw(t, "cryptogram", r.Cryptogram[:])
	r.Response.Kind = cryptogram.ResponseKind(rapid.IntRange(0, 2).Draw(t, "kind"))
	switch r.Response.Kind {
	case cryptogram.ResponseCode:
		draw(t, "arc", r.Response.ARC[:])
	case cryptogram.CardStatusUpdate:
		draw(t, "csu", r.Response.CSU[:])
		r.Response.PADLen = uint8(rapid.IntRange(0, len(r.Response.PAD)).Draw(t, "pad length"))
		draw(t, "pad", r.Response.PAD[:r.Response.PADLen])
	}
	return it
}

func drawTransaction(t *rapid.T, d *cryptogram.TransactionData) {
	for _, f := range []struct {
		name string
		b    []byte
	}{
		{"9F02", d.AmountAuthorised[:]},
		{"9F03", d.AmountOther[:]},
		{"9F1A", d.TerminalCountry[:]},
		{"95", d.TVR[:]},
		{"5F2A", d.Currency[:]},
		{"9A", d.Date[:]},
		{"9C", d.Type[:]},
		{"9F37", d.UN[:]},
		{"82", d.AIP[:]},
		{"9F36", d.ATC[:]},
	} {
		draw(t, f.name, f.b)
	}
}

func drawReply(t *rapid.T) Reply {
	r := Reply{ID: rapid.Uint64().Draw(t, "id"), Status: rapid.SampledFrom(statuses()).Draw(t, "status")}
	if r.Status == StatusMatched {
		r.ARPCBytes = rapid.SampledFrom([]uint8{0, 4, 8}).Draw(t, "arpc length")
		draw(t, "arpc", r.ARPC[:r.ARPCBytes])
	}
	if r.Status == StatusMatched || r.Status == StatusMismatched {
		r.Subjects = drawSubjects(t, 0)
	}
	return r
}

// drawSubjects draws at least so many that are there.
func drawSubjects(t *rapid.T, least int) (s [2]keys.Subject) {
	n := rapid.IntRange(least, 2).Draw(t, "subjects")
	for i := range n {
		draw(t, "hash", s[i].Hash[:])
		s[i].Hash[0] |= 1
	}
	if n > 0 {
		s[0].Version = rapid.Uint32Range(uint32(n), 1<<32-1).Draw(t, "current")
	}
	if n > 1 {
		s[1].Version = rapid.Uint32Range(1, s[0].Version-1).Draw(t, "previous")
	}
	return s
}

func drawKeyEntry(t *rapid.T) KeyEntry {
	e := KeyEntry{
		Set:     rapid.StringN(0, 60, 255).Draw(t, "set"),
		Version: rapid.Uint32().Draw(t, "version"),
		State:   keys.State(rapid.Byte().Draw(t, "state")),
		Use:     keys.Use(rapid.Byte().Draw(t, "use")),
	}
	draw(t, "key", e.ID[:])
	for _, p := range rapid.SliceOfN(rapid.Uint16(), 0, 255).Draw(t, "profiles") {
		e.Profiles = append(e.Profiles, cryptogram.ProfileID(p))
	}
	return e
}

// maximalItem has every field at its longest.
func maximalItem(tb testing.TB) Item {
	tb.Helper()
	it := Item{ID: 1<<64 - 1, Deadline: 1<<63 - 1, Key: keys.ID{1, 2, 3}, Caller: 0x0403_0201}
	pan, err := cryptogram.ParsePAN("4761739001010010123")
	if err != nil {
		tb.Fatal(err)
	}
	it.Request.Profile, it.Request.KeyOption, it.Request.PAN = 2, cryptogram.OptionB, pan
	it.Request.IAD.Len, it.Request.CVR.Len = 32, 6
	it.Request.Response = cryptogram.Response{Kind: cryptogram.CardStatusUpdate, PADLen: 8}
	return it
}

func TestItemRoundTrip(t *testing.T) {
	stale := maximalItem(t)
	rapid.Check(t, func(t *rapid.T) {
		want := drawItem(t)
		if !Encodable(&want.Request) {
			t.Fatal("a good request is not encodable")
		}
		b := AppendItem([]byte{0xEE}, &want)[1:]
		if len(b) < minItemBytes || len(b) > MaxItemBytes {
			t.Fatalf("%d bytes, want %d to %d", len(b), minItemBytes, MaxItemBytes)
		}
		got := stale // every field must be overwritten
		rest, err := DecodeItem(append(b, 0xAA), &got)
		if err != nil || !bytes.Equal(rest, []byte{0xAA}) {
			t.Fatalf("%v, %d bytes left", err, len(rest))
		}
		if diff := cmp.Diff(want, got, comparePANs); diff != "" {
			t.Fatal("decoded item differs") // the difference would print a cryptogram
		}
	})
}

// The caller is where the layout says, and no other field moves with it.
func TestCallerInItem(t *testing.T) {
	it := maximalItem(t)
	said := AppendItem(nil, &it)
	it.Caller = 0
	unsaid := AppendItem(nil, &it)
	at := 2 + 8 + 8 + keys.IDBytes
	if !bytes.Equal(said[at:at+4], []byte{1, 2, 3, 4}) || !bytes.Equal(unsaid[at:at+4], []byte{0, 0, 0, 0}) {
		t.Error("the caller is not behind the key")
	}
	if !bytes.Equal(said[:at], unsaid[:at]) || !bytes.Equal(said[at+4:], unsaid[at+4:]) {
		t.Error("the caller changes other fields")
	}
}

func TestLargestItem(t *testing.T) {
	it := maximalItem(t)
	if n := len(AppendItem(nil, &it)); n != MaxItemBytes {
		t.Errorf("the largest item has %d bytes, want %d", n, MaxItemBytes)
	}
}

func TestReplyRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawReply(t)
		got := Reply{ID: 7, Status: StatusMatched, ARPCBytes: 8, ARPC: [8]byte{1}}
		rest, err := DecodeReply(append(AppendReply(nil, &want), 0xAA), &got)
		if err != nil || len(rest) != 1 || got != want {
			t.Fatalf("%v, %d bytes left, equal %v", err, len(rest), got == want)
		}
	})
}

func TestKeyTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(drawKeyEntry), 0, 150).Draw(t, "entries")
		var got []KeyEntry
		for r := bytes.NewReader(AppendKeyTable(nil, want)); r.Len() > 0; {
			h, b, err := Read(r, nil)
			if err != nil || h.Type != TypeKeyTable {
				t.Fatalf("type %d: %v", h.Type, err)
			}
			if got, err = DecodeKeyTable(b, int(h.Count), got); err != nil {
				t.Fatal(err)
			}
		}
		if len(want) == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestLargestKeyTableFits(t *testing.T) {
	entries := make([]KeyEntry, keyTableEntries+1)
	for i := range entries {
		entries[i].Set = string(bytes.Repeat([]byte("s"), 300)) // cut off at 255
		entries[i].Profiles = make([]cryptogram.ProfileID, 300)
	}
	r := bytes.NewReader(AppendKeyTable(nil, entries))
	h, b, err := Read(r, nil)
	if err != nil || h.Count != keyTableEntries || len(b) != keyTableEntries*maxKeyEntryBytes {
		t.Fatalf("%d entries, %d bytes, %v", h.Count, len(b), err)
	}
	got, err := DecodeKeyTable(b, int(h.Count), nil)
	if err != nil || len(got[63].Set) != 255 || len(got[63].Profiles) != 255 {
		t.Errorf("last entry is not whole: %v", err)
	}
}

// A count that the bytes cannot justify must not cost memory.
func TestKeyTableWithHostileCount(t *testing.T) {
	b := make([]byte, 1000)
	for _, count := range []int{-1, 44, 1 << 16, 1 << 31} {
		if got := testing.AllocsPerRun(10, func() {
			if _, err := DecodeKeyTable(b, count, nil); !errors.Is(err, ErrFrame) {
				t.Errorf("count %d: %v", count, err)
			}
		}); got > 8 { // those of the error, of which the race detector makes more
			t.Errorf("count %d: %v allocations", count, got)
		}
	}
	b = bytes.Repeat([]byte{0}, minKeyEntryBytes)
	b[len(b)-1] = 255 // profiles that are not there
	if _, err := DecodeKeyTable(b, 1, nil); !errors.Is(err, ErrFrame) {
		t.Errorf("profiles beyond the end: %v", err)
	}
	w := AppendWelcome(nil, &Welcome{Keys: MaxKeys + 1})
	if _, err := DecodeWelcome(w[HeaderBytes:]); !errors.Is(err, ErrTooBig) {
		t.Errorf("welcome with too many keys: %v", err)
	}
}

func TestHandshakeAndHealthRoundTrip(t *testing.T) {
	w := Welcome{Epoch: [EpochBytes]byte{1, 2, 3}, Keys: MaxKeys}
	got, err := DecodeWelcome(AppendWelcome(nil, &w)[HeaderBytes:])
	if err != nil || got != w {
		t.Errorf("welcome: %+v, %v", got, err)
	}
	if err := DecodeHello(AppendHello(nil)[HeaderBytes:]); err != nil {
		t.Errorf("hello: %v", err)
	}
	id, err := DecodeHealth(AppendHealth(nil, 1<<63)[HeaderBytes:])
	if err != nil || id != 1<<63 {
		t.Errorf("health: %d, %v", id, err)
	}
	for _, s := range statuses() {
		id, status, err := DecodeHealthy(AppendHealthy(nil, 9, s)[HeaderBytes:])
		if err != nil || id != 9 || status != s {
			t.Errorf("healthy: %d, %v, %v", id, status, err)
		}
	}
	if _, _, err := DecodeHealthy(make([]byte, healthyBytes)); !errors.Is(err, ErrFrame) {
		t.Errorf("healthy with status 0: %v", err)
	}
}

func TestSubjectRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		it := drawItem(t)
		pan, psn := it.Request.PAN, it.Request.PSN
		b := AppendSubject(nil, it.ID, &pan, psn)
		if _, err := ParseHeader(b); err != nil {
			t.Fatal(err)
		}
		id, gotPAN, gotPSN, err := DecodeSubject(b[HeaderBytes:])
		if err != nil || id != it.ID || gotPAN != pan || gotPSN != psn {
			t.Fatalf("another subject, error %v", err)
		}
		want := SubjectsReply{ID: it.ID, Status: rapid.SampledFrom(statuses()).Draw(t, "status")}
		if want.Status == StatusMatched {
			want.Subjects = drawSubjects(t, 1)
		}
		b = AppendSubjects(nil, &want)
		if _, err := ParseHeader(b); err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeSubjects(b[HeaderBytes:]); err != nil || got != want {
			t.Fatalf("another answer, error %v", err)
		}
	})
	none := AppendSubject(nil, 1, &cryptogram.PAN{}, cryptogram.PSN{})
	if _, _, _, err := DecodeSubject(none[HeaderBytes:]); !errors.Is(err, ErrFrame) {
		t.Errorf("a subject without a PAN: %v", err)
	}
}

// Subjects that cannot be are refused, in both frames that carry them.
func TestWrongSubjects(t *testing.T) {
	some := [keys.SubjectBytes]byte{31: 1}
	both := [2]keys.Subject{{Version: 2, Hash: some}, {Version: 1, Hash: some}}
	for name, tc := range map[string]struct {
		status   Status
		subjects [2]keys.Subject
		only     Type // 0: both
	}{
		"a hash without a version":     {StatusMatched, [2]keys.Subject{{Hash: some}}, 0},
		"a version without a hash":     {StatusMatched, [2]keys.Subject{{Version: 1}}, 0},
		"previous without current":     {StatusMatched, [2]keys.Subject{1: {Version: 1, Hash: some}}, 0},
		"previous of the same version": {StatusMatched, [2]keys.Subject{{Version: 1, Hash: some}, {Version: 1, Hash: some}}, 0},
		"previous of a later version":  {StatusMatched, [2]keys.Subject{{Version: 1, Hash: some}, {Version: 2, Hash: some}}, 0},
		"previous without a hash":      {StatusMatched, [2]keys.Subject{{Version: 2, Hash: some}, {Version: 1}}, 0},
		"beside a failure":             {StatusTokenFailure, both, 0},
		"beside an unknown status":     {StatusMatched ^ 1, both, 0},
		"beside a refusal":             {StatusNotBound, both, 0},
		"beside a mismatch":            {StatusMismatched, both, TypeSubjects},
		"none":                         {StatusMatched, [2]keys.Subject{}, TypeSubjects},
	} {
		if tc.only != TypeSubjects {
			var got Reply
			r := Reply{ID: 1, Status: tc.status, Subjects: tc.subjects}
			if _, err := DecodeReply(AppendReply(nil, &r), &got); !errors.Is(err, ErrFrame) {
				t.Errorf("reply, %s: %v", name, err)
			}
		}
		r := SubjectsReply{ID: 1, Status: tc.status, Subjects: tc.subjects}
		if _, err := DecodeSubjects(AppendSubjects(nil, &r)[HeaderBytes:]); !errors.Is(err, ErrFrame) {
			t.Errorf("subjects, %s: %v", name, err)
		}
	}
}

// decodeFrame decodes a whole frame of any type and returns its canonical
// encoding.
func decodeFrame(b []byte) ([]byte, error) {
	r := bytes.NewReader(b)
	h, payload, err := Read(r, nil)
	if err != nil {
		return nil, err
	}
	if r.Len() > 0 {
		return nil, ErrFrame
	}
	return encodeAgain(h, payload)
}

func encodeAgain(h Header, b []byte) ([]byte, error) {
	switch h.Type {
	case TypeHello:
		return AppendHello(nil), DecodeHello(b)
	case TypeWelcome:
		w, err := DecodeWelcome(b)
		return AppendWelcome(nil, &w), err
	case TypeKeyTable:
		entries, err := DecodeKeyTable(b, int(h.Count), nil)
		return AppendKeyTable(nil, entries), err
	case TypeVerify:
		return verifyAgain(h, b)
	case TypeReplies:
		return repliesAgain(h, b)
	case TypeHealth:
		id, err := DecodeHealth(b)
		return AppendHealth(nil, id), err
	case TypeHealthy:
		id, s, err := DecodeHealthy(b)
		return AppendHealthy(nil, id, s), err
	case TypeGoAway:
		return AppendGoAway(nil), nil
	case TypeSubject:
		id, pan, psn, err := DecodeSubject(b)
		return AppendSubject(nil, id, &pan, psn), err
	case TypeSubjects:
		r, err := DecodeSubjects(b)
		return AppendSubjects(nil, &r), err
	}
	return nil, ErrFrame
}

func verifyAgain(h Header, b []byte) ([]byte, error) {
	out, start := Begin(nil)
	for range h.Count {
		var it Item
		rest, err := DecodeItem(b, &it)
		if err != nil {
			return nil, err
		}
		b, out = rest, AppendItem(out, &it)
	}
	if len(b) > 0 {
		return nil, ErrFrame
	}
	End(out, start, h.Type, int(h.Count))
	return out, nil
}

func repliesAgain(h Header, b []byte) ([]byte, error) {
	out, start := Begin(nil)
	for range h.Count {
		var r Reply
		rest, err := DecodeReply(b, &r)
		if err != nil {
			return nil, err
		}
		b, out = rest, AppendReply(out, &r)
	}
	if len(b) > 0 {
		return nil, ErrFrame
	}
	End(out, start, h.Type, int(h.Count))
	return out, nil
}

// oneOfEach is a frame of every type.
func oneOfEach(tb testing.TB) map[string][]byte {
	tb.Helper()
	it := maximalItem(tb)
	verify, start := Begin(nil)
	verify = AppendItem(verify, &it)
	it.Caller, it.Request.Response = 0, cryptogram.Response{}
	verify = AppendItem(verify, &it)
	End(verify, start, TypeVerify, 2)
	replies, start := Begin(nil)
	replies = AppendReply(replies, &Reply{ID: 1, Status: StatusMatched, ARPCBytes: 8, ARPC: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}})
	both := [2]keys.Subject{{Version: 2, Hash: [32]byte{1}}, {Version: 1, Hash: [32]byte{31: 2}}}
	replies = AppendReply(replies, &Reply{ID: 2, Status: StatusMismatched, Subjects: both})
	End(replies, start, TypeReplies, 2)
	return map[string][]byte{
		"hello":   AppendHello(nil),
		"welcome": AppendWelcome(nil, &Welcome{Epoch: [16]byte{9}, Keys: 2}),
		"key table": AppendKeyTable(nil, []KeyEntry{
			{ID: keys.ID{1}, Set: "visa-demo", Version: 1, State: keys.Active, Use: keys.UseIssuerAC, Profiles: []cryptogram.ProfileID{1, 2}},
			{ID: keys.ID{2}, Set: "x", Version: 7, State: keys.Suspended, Use: keys.UseSubjectHash},
		}),
		"verify":  verify,
		"replies": replies,
		"health":  AppendHealth(nil, 5),
		"healthy": AppendHealthy(nil, 5, StatusTokenFailure),
		"go away": AppendGoAway(nil),

		"subject":  AppendSubject(nil, 6, &it.Request.PAN, it.Request.PSN),
		"subjects": AppendSubjects(nil, &SubjectsReply{ID: 6, Status: StatusMatched, Subjects: both}),
	}
}

func TestEveryTruncationAndExtensionIsAnError(t *testing.T) {
	for name, whole := range oneOfEach(t) {
		t.Run(name, func(t *testing.T) {
			if again, err := decodeFrame(whole); err != nil || !bytes.Equal(again, whole) {
				t.Fatalf("the whole frame: %v", err)
			}
			for n := range whole {
				if _, err := decodeFrame(whole[:n]); err == nil {
					t.Errorf("cut to %d of %d bytes: accepted", n, len(whole))
				}
				if n < HeaderBytes {
					continue
				}
				cut := bytes.Clone(whole[:n]) // with a header that agrees
				End(cut, 0, Type(whole[4]), int(whole[6]))
				if _, err := decodeFrame(cut); err == nil {
					t.Errorf("payload of %d bytes: accepted", n-HeaderBytes)
				}
			}
			longer := append(bytes.Clone(whole), 0)
			End(longer, 0, Type(whole[4]), int(whole[6]))
			if _, err := decodeFrame(longer); err == nil {
				t.Error("a byte more: accepted")
			}
			for _, d := range []int{-1, 1} {
				miscounted := bytes.Clone(whole)
				End(miscounted, 0, Type(whole[4]), int(whole[6])+d)
				if _, err := decodeFrame(miscounted); err == nil {
					t.Errorf("count changed by %d: accepted", d)
				}
			}
		})
	}
}

func TestHeadersOutOfBounds(t *testing.T) {
	for name, tc := range map[string]struct {
		b    [HeaderBytes]byte
		want error
	}{
		"zero":           {[8]byte{}, ErrVersion},
		"other version":  {[8]byte{8, 0, 0, 0, byte(TypeHello), Version - 1}, ErrVersion},
		"type 0":         {[8]byte{0, 0, 0, 0, 0, Version}, ErrFrame},
		"type 11":        {[8]byte{0, 0, 0, 0, 11, Version}, ErrFrame},
		"too long":       {[8]byte{1, 0, 1, 0, byte(TypeVerify), Version, 1}, ErrTooBig},
		"longest":        {[8]byte{255, 255, 255, 255, byte(TypeVerify), Version, 1}, ErrTooBig},
		"too many items": {[8]byte{0, 128, 0, 0, byte(TypeVerify), Version, 1, 1}, ErrTooBig},
		"no items":       {[8]byte{0, 0, 0, 0, byte(TypeVerify), Version}, ErrFrame},
		"no replies":     {[8]byte{0, 0, 0, 0, byte(TypeReplies), Version}, ErrFrame},
		"empty table":    {[8]byte{0, 0, 0, 0, byte(TypeKeyTable), Version}, ErrFrame},
		"counted hello":  {[8]byte{8, 0, 0, 0, byte(TypeHello), Version, 1}, ErrFrame},
		"goaway payload": {[8]byte{1, 0, 0, 0, byte(TypeGoAway), Version}, ErrFrame},
		"reply too long": {[8]byte{ReplyBytes + 1, 0, 0, 0, byte(TypeReplies), Version, 1}, ErrFrame},
	} {
		if _, err := ParseHeader(tc.b[:]); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	if _, _, err := Read(bytes.NewReader(nil), nil); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v, want EOF", err)
	}
}

// No single corrupted bit may turn one answer into another one.
func TestStatusesAreFarApart(t *testing.T) {
	for _, a := range statuses() {
		for _, b := range statuses() {
			if d := bits.OnesCount32(uint32(a ^ b)); a != b && d < 8 {
				t.Errorf("%#x and %#x differ in %d bits", uint32(a), uint32(b), d)
			}
		}
		for bit := range 32 {
			r := Reply{ID: 1, Status: a ^ 1<<bit}
			var got Reply
			if _, err := DecodeReply(AppendReply(nil, &r), &got); !errors.Is(err, ErrFrame) {
				t.Errorf("%#x with bit %d flipped: %v", uint32(a), bit, err)
			}
		}
		if n := bits.OnesCount32(uint32(a)); n < 8 || n > 24 {
			t.Errorf("%#x is near all zeros or all ones", uint32(a))
		}
	}
}

func TestReplyWithWrongARPC(t *testing.T) {
	for name, r := range map[string]Reply{
		"beside a mismatch":     {ID: 1, Status: StatusMismatched, ARPCBytes: 8, ARPC: [8]byte{1}},
		"beside a failure":      {ID: 1, Status: StatusTokenFailure, ARPCBytes: 4, ARPC: [8]byte{1}},
		"length beside nothing": {ID: 1, Status: StatusMismatched, ARPCBytes: 8},
		"without a length":      {ID: 1, Status: StatusMatched, ARPC: [8]byte{7: 1}},
		"of 5 bytes":            {ID: 1, Status: StatusMatched, ARPCBytes: 5, ARPC: [8]byte{1}},
		"of 9 bytes":            {ID: 1, Status: StatusMatched, ARPCBytes: 9, ARPC: [8]byte{1}},
		"bytes beyond the 4":    {ID: 1, Status: StatusMatched, ARPCBytes: 4, ARPC: [8]byte{4: 1}},
		"status zero":           {ID: 1},
	} {
		var got Reply
		if _, err := DecodeReply(AppendReply(nil, &r), &got); !errors.Is(err, ErrFrame) {
			t.Errorf("ARPC %s: %v", name, err)
		}
	}
}

// What the sender must refuse is exactly what the receiver would.
func TestEncodable(t *testing.T) {
	for name, change := range map[string]func(*cryptogram.Request){
		"no PAN":        func(r *cryptogram.Request) { r.PAN = cryptogram.PAN{} },
		"IAD too long":  func(r *cryptogram.Request) { r.IAD.Len = 33 },
		"CVR too long":  func(r *cryptogram.Request) { r.CVR.Len = 7 },
		"PAD too long":  func(r *cryptogram.Request) { r.Response.PADLen = 9 },
		"kind unknown":  func(r *cryptogram.Request) { r.Response.Kind = 3 },
		"IAD longest":   func(r *cryptogram.Request) { r.IAD.Len = 255 },
		"everything up": func(r *cryptogram.Request) { r.IAD.Len, r.CVR.Len, r.Response.PADLen = 255, 255, 255 },
	} {
		it := maximalItem(t)
		change(&it.Request)
		if Encodable(&it.Request) {
			t.Errorf("%s: encodable", name)
		}
		var got Item
		if _, err := DecodeItem(AppendItem(nil, &it), &got); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: decoded: %v", name, err)
		}
	}
}

func TestErrorsCarryNoInput(t *testing.T) {
	it := maximalItem(t)
	b := AppendItem(nil, &it)
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 0x80
		var got Item
		if _, err := DecodeItem(bad, &got); err != nil && bytes.ContainsAny([]byte(err.Error()), "0123456789") {
			t.Fatalf("byte %d: the error has a digit: %v", i, err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	it := maximalItem(t)
	r := Reply{ID: 1, Status: StatusMatched, ARPCBytes: 8}
	r.Subjects[0] = keys.Subject{Version: 1, Hash: [32]byte{1}}
	buf := make([]byte, 0, 1024)
	var gotItem Item
	var gotReply Reply
	for name, f := range map[string]func(){
		"AppendItem":   func() { buf = AppendItem(buf[:0], &it) },
		"DecodeItem":   func() { buf = AppendItem(buf[:0], &it); _, _ = DecodeItem(buf, &gotItem) },
		"AppendReply":  func() { buf = AppendReply(buf[:0], &r) },
		"DecodeReply":  func() { buf = AppendReply(buf[:0], &r); _, _ = DecodeReply(buf, &gotReply) },
		"Begin, End":   func() { var s int; buf, s = Begin(buf[:0]); End(buf, s, TypeGoAway, 0) },
		"ParseHeader":  func() { buf = AppendGoAway(buf[:0]); _, _ = ParseHeader(buf) },
		"AppendGoAway": func() { buf = AppendGoAway(buf[:0]) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
