package state_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/state"
)

// After an older state was restored, nothing is accepted that the lost one may
// have accepted.
func TestFloors(t *testing.T) {
	t.Parallel()
	f := floor(state.Floor{Generation: 1, Raise: 100, Date: 0x270115})
	later := func(e *state.Event) { e.Date = 0x270116 }
	earlier := func(e *state.Event) { e.Date = 0x261231 }
	undated := func(e *state.Event) { e.Date = 0 }
	under := want{state.Reject, state.CannotTell, false, reasons(state.ATCUnderFloor)}
	fresh := want{state.Accept, state.Fresh, false, nil}
	type step struct {
		e    state.Event
		want want
	}
	for name, c := range map[string]struct {
		record *state.Record
		steps  []step
	}{
		"known": {accepted(t, 990, 1000), []step{
			{tap(1001, f), under},
			{tap(1100, f, later), under},
			{tap(995, f), under},
			{tap(990, request(7), f), under},
			{tap(1100, f, mode(state.Observe)), under},
			{tap(1000, f), want{state.Accept, state.Repeated, true, nil}},
			{tap(1100, f), under},
			{tap(1101, f), fresh},
			{tap(1100, f), under},
			{tap(1050, f, purpose(state.Advice)), want{state.Accept, state.CannotTell, false, nil}},
			{tap(1050, f, ofType(state.TypeTC)), want{state.Accept, state.CannotTell, false, nil}},
			{tap(1105, f), fresh},
			{tap(1103, f), want{state.Accept, state.Late, false, nil}},
		}},
		"known, no raise": {accepted(t, 990, 1000), []step{
			{tap(995, floor(state.Floor{Generation: 1})), under}, {tap(1001, floor(state.Floor{Generation: 1})), fresh},
		}},
		"unknown": {&state.Record{}, []step{
			{tap(500, f), under},
			{tap(500, f, earlier), under},
			{tap(500, f, undated), under},
			{tap(500, f, later), fresh},
			{tap(499, f), under},
			{tap(499, f, later), want{state.Accept, state.Late, false, nil}},
			{tap(501, f, earlier), under},
		}},
		"failures only": {&state.Record{Status: state.Noted}, []step{{tap(500, f), under}, {tap(500, f, later), fresh}}},
		"registered":    {&state.Record{Status: state.Active}, []step{{tap(500, f), under}, {tap(500, f, later), fresh}, {tap(499, f), under}}},
		"made known by an advice": {&state.Record{}, []step{
			{tap(500, f, ofType(state.TypeTC)), want{state.Accept, state.CannotTell, false, nil}},
			{tap(500, f), under},
			{tap(500, f, later), fresh},
		}},
		"reissued": {&state.Record{Status: state.Active, Floor: 10}, []step{
			{tap(10, f, later), under},
			{tap(110, f, later), under},
			{tap(500, f), under},
			{tap(500, f, later), fresh},
			{tap(499, f), under},
			{tap(499, f, later), under},
			{tap(501, f), fresh},
		}},
		"a newer generation than ours": {&state.Record{Status: state.Active, Generation: 2, ARQC: state.Window{Highest: 5, Seen: 1}}, []step{
			{tap(105, f), under}, {tap(106, f), fresh},
		}},
		"the end": {accepted(t, 65500), []step{{tap(65535, f), under}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, s := range c.steps {
				t.Log(i)
				s.want.check(t, decide(t, c.record, s.e))
			}
		})
	}
	// Written once, with what is written anyway; the floor of a generation is not
	// raised again.
	r := accepted(t, 1000)
	decide(t, r, tap(1101, f))
	if r.Floor != 1100 || r.Generation != 1 {
		t.Errorf("%+v", r)
	}
	decide(t, r, tap(1102, f))
	if r.Floor != 1100 {
		t.Errorf("raised twice: %d", r.Floor)
	}
}

func TestRestoredTwice(t *testing.T) {
	t.Parallel()
	var r state.Rules
	r.Restored(1000, 0x270115)
	r.Restored(10, 0)
	if r.Generation != 2 || r.Raise != 1010 || r.FloorDate != 0x270115 {
		t.Errorf("%+v", r)
	}
	r.Restored(65535, 0x270201)
	if r.Raise != 65535 || r.FloorDate != 0x270201 {
		t.Errorf("%+v", r)
	}
	record := accepted(t, 500)
	want{state.Reject, state.CannotTell, false, reasons(state.ATCUnderFloor)}.check(t,
		decide(t, record, tap(1510, floor(state.Floor{Generation: 2, Raise: 1010}))))
}

func TestChange(t *testing.T) {
	t.Parallel()
	note := state.Note{At: 5, By: "operator", Why: "lost"}
	r := &state.Record{}
	apply := func(c state.Change) error { return c.Apply(r, 3) }
	if err := apply(state.Change{Status: state.Suspended, Note: note}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&state.Record{Status: state.Suspended, Generation: 3, Note: note}, r, sameRecord); diff != "" {
		t.Error(diff)
	}
	if err := apply(state.Change{Restrict: &state.Restriction{AmountCap: 5}, Note: state.Note{By: "somebody else"}}); err != nil {
		t.Fatal(err)
	}
	if r.Note != note || r.Restricted.AmountCap != 5 || r.Status != state.Suspended {
		t.Errorf("%+v", r)
	}
	if err := apply(state.Change{Status: state.Deleted, Note: note}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []state.Change{{Status: state.Active}, {Reset: true}, {}, {Restrict: &state.Restriction{}}} {
		if err := apply(c); !errors.Is(err, state.ErrTokenDeleted) || r.Status != state.Deleted || r.Restricted.AmountCap != 5 {
			t.Errorf("%+v of a deleted token: %v", c, err)
		}
	}
	if err := (&state.Change{Status: state.Active}).Apply(state.Tombstone(), 1); !errors.Is(err, state.ErrTokenMoved) {
		t.Errorf("of a record that has moved: %v", err)
	}
}

// A change never writes what cannot be read back, and leaves the record alone.
func TestChangeRefused(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", state.MaxNoteText+1)
	for name, c := range map[string]state.Change{
		"moved":      {Status: state.Moved},
		"noted":      {Status: state.Noted},
		"status 8":   {Status: 8},
		"by":         {Status: state.Active, Note: state.Note{By: long}},
		"why":        {Status: state.Active, Note: state.Note{Why: long}},
		"time":       {Status: state.Active, Note: state.Note{At: -1}},
		"channel":    {Restrict: &state.Restriction{Channels: 0x40}},
		"currencies": {Restrict: &state.Restriction{Currencies: make([]uint16, 17)}},
		"categories": {Restrict: &state.Restriction{Categories: make([]uint16, 256+3)}},
		"merchants":  {Restrict: &state.Restriction{Merchants: make([]state.NameHash, 17)}},
		"terminals":  {Restrict: &state.Restriction{Terminals: make([]uint8, 17)}},
	} {
		r := accepted(t, 1)
		before := string(r.Append(nil))
		if err := c.Apply(r, 9); !errors.Is(err, state.ErrChange) || string(r.Append(nil)) != before {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A reissued card begins anew, above its floor.
func TestReset(t *testing.T) {
	t.Parallel()
	r := accepted(t, 1000, 1001)
	decide(t, r, tap(1001, ofType(state.TypeTC)))
	fails(t, r, 2, 0)
	if err := (&state.Change{Reset: true, ResetFloor: 1001}).Apply(r, 4); err != nil {
		t.Fatal(err)
	}
	under := want{state.Reject, state.CannotTell, false, reasons(state.ATCUnderFloor)}
	f := floor(state.Floor{Generation: 4, Raise: 100})
	under.check(t, decide(t, r, tap(1000, f)))
	under.check(t, decide(t, r, tap(1001, request(3), f)))
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(1002, f)))
	if err := (&state.Change{Reset: true}).Apply(r, 4); err != nil {
		t.Fatal(err)
	}
	want{state.Accept, state.Fresh, false, nil}.check(t, decide(t, r, tap(0, f)))
	if len(r.Failing) != 0 || r.TC.Seen != 0 {
		t.Errorf("%+v", r)
	}
}

func TestRules(t *testing.T) {
	t.Parallel()
	bin := state.StandingStop{Kind: state.StopsBIN, First: 4761730000000000000, Last: 4761739999999999999, Name: "476173", At: 1, By: "me", Why: "stolen"}
	key := state.StandingStop{Kind: state.StopsKey, KeySet: "demo", KeyVersion: 2}
	every := state.StandingStop{Kind: state.StopsKey, KeySet: "all"}
	r, err := state.ParseRules(nil)
	if err != nil || r.Floor() != (state.Floor{}) {
		t.Fatal(r, err)
	}
	for _, s := range []state.StandingStop{bin, key, every} {
		if err := r.Add(s); err != nil {
			t.Fatal(err)
		}
		if err := r.Add(s); !errors.Is(err, state.ErrStopExists) {
			t.Errorf("twice: %v", err)
		}
	}
	r.Restored(5, 0x270101)
	doc, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := state.ParseRules(doc)
	if diff := cmp.Diff(r, again); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	if got := again.Floor(); got != (state.Floor{Generation: 1, Raise: 5, Date: 0x270101}) {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		pan     uint64
		set     string
		version uint32
		want    state.Stop
	}{
		{bin.First, "x", 1, state.StopBIN},
		{bin.Last, "x", 1, state.StopBIN},
		{bin.First - 1, "x", 1, 0},
		{bin.Last + 1, "x", 1, 0},
		{1, "demo", 2, state.StopKey},
		{1, "demo", 1, 0},
		{1, "demo2", 2, 0},
		{1, "all", 7, state.StopKey},
		{bin.First, "all", 0, state.StopKey | state.StopBIN},
	} {
		if got := again.StopsFor(c.pan, c.set, c.version); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
	if err := again.Lift(state.StandingStop{Kind: state.StopsKey, KeySet: "demo"}); !errors.Is(err, state.ErrNoSuchStop) {
		t.Errorf("a stop of every version is another one: %v", err)
	}
	if err := again.Lift(key); err != nil || again.StopsFor(1, "demo", 2) != 0 {
		t.Errorf("lifted: %v", err)
	}
}

// A document that not every daemon understands would stop them all; and a stop
// that is not understood would not stop.
func TestRulesRefused(t *testing.T) {
	t.Parallel()
	for _, s := range []state.StandingStop{
		{},
		{Kind: "device"},
		{Kind: state.StopsBIN},
		{Kind: state.StopsBIN, First: 2, Last: 1},
		{Kind: state.StopsKey},
		{Kind: state.StopsBIN, Last: math.MaxUint64, KeySet: "x"},
		{Kind: state.StopsKey, KeySet: "x", First: 1, Last: 2},
	} {
		if err := new(state.Rules).Add(s); !errors.Is(err, state.ErrBadStop) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	var r state.Rules
	for i := range uint64(state.MaxStops + 1) {
		if err := r.Add(state.StandingStop{Kind: state.StopsBIN, First: i + 1, Last: i + 1}); (err != nil) != (i == state.MaxStops) {
			t.Fatal(i, err)
		}
	}
	for _, doc := range []string{
		"x", "{}", `{"format":2}`, `{"format":1}{}`, `{"format":1} x`, `{"format":1,"new":1}`, `{"format":1,"raise":65536}`,
		`{"format":1,"stops":[{"kind":"device","name":"","at":0,"by":"","why":""}]}`, `{"format":1,"stops":[{"kind":"bin","extra":1}]}`,
	} {
		if _, err := state.ParseRules([]byte(doc)); err == nil {
			t.Errorf("%s is a document", doc)
		}
	}
	r.Stops = []state.StandingStop{{Kind: state.StopsKey, KeySet: "x", Why: strings.Repeat("w", state.MaxControlDoc)}}
	if _, err := r.Marshal(); err == nil {
		t.Error("too long a document is one")
	}
}

func TestParseDigits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		s  string
		n  int
		v  uint16
		ok bool
	}{
		{"978", 3, 0x0978, true},
		{"5411", 4, 0x5411, true},
		{"0000", 4, 0, true},
		{"", 0, 0, true},
		{"97", 3, 0, false},
		{"9780", 3, 0, false},
		{"97A", 3, 0, false},
		{"97:", 3, 0, false},
		{"12345", 5, 0, false},
	} {
		if v, ok := state.ParseDigits(c.s, c.n); v != c.v || ok != c.ok {
			t.Errorf("%q, %d: %x %v", c.s, c.n, v, ok)
		}
	}
}
