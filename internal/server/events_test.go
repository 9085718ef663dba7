package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
)

// until collects what is there now, and the last cursor.
func until(t *testing.T, c tapsealv1.AdminServiceClient, m *tapsealv1.WatchEventsRequest) (events []*tapsealv1.Event, cursor uint64) {
	t.Helper()
	m.UntilNow = true
	s, err := c.WatchEvents(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return events, cursor
		}
		if err != nil {
			t.Fatal(err)
		}
		events, cursor = append(events, m.GetEvents()...), m.GetCursor()
		if len(m.GetEvents()) > eventsInMessage {
			t.Errorf("%d events in one message", len(m.GetEvents()))
		}
	}
}

func kindsOf(events []*tapsealv1.Event) (names []string) {
	for _, e := range events {
		names = append(names, strings.ToLower(strings.TrimPrefix(e.GetKind().String(), "EVENT_KIND_")))
	}
	return names
}

// TestEventsByRole: a tap without a finding, a wrong cryptogram, an act, and a tap
// that is refused.
func TestEventsByRole(t *testing.T) {
	r := newRig(t, "visa")
	tap := visaCase().tap(t, "seen")
	r.want(t, tap, valid, 0)
	r.want(t, forged(tap, 3), refused, tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH)
	r.administrator(t, "operator").suspend(theToken(tap))
	r.wantRefused(t, tap, tapsealv1.Reason_REASON_TOKEN_SUSPENDED)
	for name, want := range map[string]string{
		"client":   "decision failure refusal",
		"operator": "act act failure act act refusal",
		"monitor":  "act act failure act act refusal",
		"officer":  "act act decision failure act act refusal",
		"auditor":  "act act decision failure act act refusal",
	} {
		events, cursor := until(t, r.admin(t, name), &tapsealv1.WatchEventsRequest{})
		if got := strings.Join(kindsOf(events), " "); got != want || cursor != 7 {
			t.Errorf("%s sees %q up to %d, want %q", name, got, cursor, want)
		}
		if s := revealed(prototext.Format(&tapsealv1.WatchEventsResponse{Events: events}), planted(t)); s != "" {
			t.Errorf("%s sees a planted value", name)
		}
	}
	events, _ := until(t, r.admin(t, "auditor"), &tapsealv1.WatchEventsRequest{})
	ref := r.administrator(t, "auditor").show(theToken(tap)).GetTokenRef()
	first, act, last := events[2], events[4], events[6]
	if first.GetTokenRef() != ref || first.GetCaller() != callerURI || first.GetRequestId() != "seen" || first.GetVerdict() != valid ||
		first.GetFreshness() != tapsealv1.Freshness_FRESHNESS_FRESH || first.GetProfile() != "visa-cvn18" || first.GetKey().GetKeySet() != "test" {
		t.Errorf("decision %v", first)
	}
	if act.GetSubject() != ref || act.GetAction() != "suspend" || act.GetOutcome() != "intended" || act.GetPrincipal() != "operator" || act.GetWhy() != "test" {
		t.Errorf("act %v", act)
	}
	if last.GetReasons()[0] != tapsealv1.Reason_REASON_TOKEN_SUSPENDED || last.GetSequence() != 7 {
		t.Errorf("refusal %v", last)
	}
	for _, kinds := range [][]tapsealv1.EventKind{{0}, {99}} {
		s, err := r.admin(t, "auditor").WatchEvents(context.Background(), &tapsealv1.WatchEventsRequest{Kinds: kinds})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "kinds[0]") {
			t.Errorf("kind %v: %v", kinds, err)
		}
	}
	only, _ := until(t, r.admin(t, "auditor"), &tapsealv1.WatchEventsRequest{Kinds: []tapsealv1.EventKind{tapsealv1.EventKind_EVENT_KIND_FAILURE}})
	if len(only) != 1 {
		t.Errorf("failures %v", only)
	}
}

// TestEventsResume reads a long journal in pieces, each with the cursor of the one
// before.
func TestEventsResume(t *testing.T) {
	r := newRig(t, "visa")
	const taps = 1200
	stream, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	tap := visaCase().tap(t, "")
	for sent := 0; sent < taps; sent += 100 {
		m := &tapsealv1.VerifyCryptogramsRequest{}
		for i := range 100 {
			c, _ := proto.Clone(tap).(*tapsealv1.Tap)
			c.RequestId = fmt.Sprintf("t-%d", sent+i)
			m.Taps = append(m.Taps, c)
		}
		if err := stream.Send(m); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < 100; {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got += len(m.GetResults())
		}
	}
	auditor := r.admin(t, "auditor")
	var cursor uint64
	for cursor < taps+2 {
		s, err := auditor.WatchEvents(context.Background(), &tapsealv1.WatchEventsRequest{AfterSequence: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			m, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range m.GetEvents() {
				if cursor++; e.GetSequence() != cursor {
					t.Fatalf("sequence %d instead of %d", e.GetSequence(), cursor)
				}
			}
			if m.GetCursor() != cursor {
				t.Fatalf("cursor %d after event %d", m.GetCursor(), cursor)
			}
			if cursor >= taps+2 {
				break
			}
		}
	}
	for after, hint := range map[uint64]string{cursor + 1: "from_now", cursor + 1_000_000: "another instance"} {
		s, err := auditor.WatchEvents(context.Background(), &tapsealv1.WatchEventsRequest{AfterSequence: after})
		if err == nil {
			_, err = s.Recv()
		}
		if status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), hint) {
			t.Errorf("after %d: %v", after, err)
		}
	}
	if err := followError(&audit.CursorError{After: 3, First: 500, Last: 900}); status.Code(err) != codes.OutOfRange || !strings.Contains(err.Error(), "go on after 499") {
		t.Errorf("before the beginning: %v", err)
	}
}

// watching is a stream that has begun at the end of the journal.
func (r *rig) watching(t *testing.T, name string) tapsealv1.AdminService_WatchEventsClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	s, err := r.admin(t, name).WatchEvents(ctx, &tapsealv1.WatchEventsRequest{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || len(m.GetEvents()) != 0 || m.GetCursor() == 0 {
		t.Fatalf("first message %v, %v", m, err)
	}
	return s
}

// TestEventsFollow: what happens is told, to whom it is meant, until the rights or
// the service end.
func TestEventsFollow(t *testing.T) {
	r := newRig(t, "visa")
	caller, auditor := r.watching(t, "client"), r.watching(t, "auditor")
	r.administrator(t, "operator").suspend(theDevice("phone"))
	r.want(t, visaCase().tap(t, "now"), valid, 0)
	if m, err := caller.Recv(); err != nil || len(m.GetEvents()) != 1 || m.GetEvents()[0].GetRequestId() != "now" {
		t.Errorf("the caller sees %v, %v", m, err)
	}
	var kinds []string
	for len(kinds) < 3 {
		m, err := auditor.Recv()
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, kindsOf(m.GetEvents())...)
	}
	if !slices.Equal(kinds, []string{"act", "act", "decision"}) {
		t.Errorf("the auditor sees %v", kinds)
	}
	r.writePolicy(testPeople(), callerFirst, callerMoved)
	r.reloadNow(t)
	if m, err := caller.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the caller without a right: %v, %v", m, err)
	}
	r.stopQuietly(t)
	for {
		_, err := auditor.Recv()
		if err == nil {
			continue
		}
		if status.Code(err) != codes.Unavailable {
			t.Errorf("the auditor at the end: %v", err)
		}
		break
	}
}

// TestSlowWatchStopsNobody: somebody who follows and does not read.
func TestSlowWatchStopsNobody(t *testing.T) {
	r := newRig(t, "visa")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for range 3 {
		if _, err := r.admin(t, "auditor").WatchEvents(ctx, &tapsealv1.WatchEventsRequest{}); err != nil {
			t.Fatal(err)
		}
	}
	tap := visaCase().tap(t, "slow")
	for range 300 {
		r.want(t, tap, valid, 0)
	}
	cancel()
}

func TestTooManyWatches(t *testing.T) {
	r := newRig(t, "visa")
	c := r.admin(t, "auditor")
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	open := func() error {
		s, err := c.WatchEvents(ctx, &tapsealv1.WatchEventsRequest{FromNow: true})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	for i := range maxWatches {
		if err := open(); err != nil {
			t.Fatalf("watch %d: %v", i, err)
		}
	}
	if err := open(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	cancel()
	ctx = context.Background()
	r.eventually(t, "a place for another", func() bool { return open() == nil })
}

func TestKindOf(t *testing.T) {
	const (
		mismatch = tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH
		limited  = tapsealv1.Reason_REASON_ATTEMPTS_LIMITED
		replayed = tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED
		jump     = tapsealv1.Reason_REASON_ATC_JUMP
		stopped  = tapsealv1.Reason_REASON_TOKEN_SUSPENDED
		velocity = tapsealv1.Reason_REASON_VELOCITY_COUNT
		deadline = tapsealv1.Reason_REASON_DEADLINE_EXCEEDED
		unknown  = tapsealv1.Verdict_VERDICT_UNKNOWN
	)
	for _, c := range []struct {
		verdict tapsealv1.Verdict
		reasons []tapsealv1.Reason
		want    tapsealv1.EventKind
	}{
		{valid, nil, tapsealv1.EventKind_EVENT_KIND_DECISION},
		{valid, []tapsealv1.Reason{jump}, tapsealv1.EventKind_EVENT_KIND_DECISION},
		{valid, []tapsealv1.Reason{jump, replayed}, tapsealv1.EventKind_EVENT_KIND_REPLAY},
		{valid, []tapsealv1.Reason{velocity}, tapsealv1.EventKind_EVENT_KIND_LIMIT},
		{refused, []tapsealv1.Reason{mismatch, limited}, tapsealv1.EventKind_EVENT_KIND_FAILURE},
		{refused, []tapsealv1.Reason{replayed}, tapsealv1.EventKind_EVENT_KIND_REPLAY},
		{refused, []tapsealv1.Reason{stopped, replayed}, tapsealv1.EventKind_EVENT_KIND_REFUSAL},
		{refused, []tapsealv1.Reason{velocity}, tapsealv1.EventKind_EVENT_KIND_LIMIT},
		{refused, []tapsealv1.Reason{jump}, tapsealv1.EventKind_EVENT_KIND_REFUSAL},
		{unknown, []tapsealv1.Reason{limited}, tapsealv1.EventKind_EVENT_KIND_LIMIT},
		{unknown, []tapsealv1.Reason{deadline}, tapsealv1.EventKind_EVENT_KIND_TROUBLE},
		{0, nil, tapsealv1.EventKind_EVENT_KIND_TROUBLE},
	} {
		r := audit.Record{Kind: audit.KindDecision, Verdict: uint8(c.verdict)} //nolint:gosec // small
		for i, reason := range c.reasons {
			r.Reasons[i] = uint8(reason) //nolint:gosec // small
		}
		if got := kindOf(&r); got != c.want {
			t.Errorf("%v %v: %v, want %v", c.verdict, c.reasons, got, c.want)
		}
	}
	if kindOf(&audit.Record{Kind: audit.KindAdministration}) != tapsealv1.EventKind_EVENT_KIND_ACT ||
		kindOf(&audit.Record{Kind: audit.KindRecovered}) != tapsealv1.EventKind_EVENT_KIND_JOURNAL {
		t.Error("acts and the journal's own records")
	}
}
