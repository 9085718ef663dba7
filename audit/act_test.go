package audit

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestActsAndDecisionsInOneJournal(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	act := Record{
		Time: time.Unix(1_700_000_000, 1).UTC(), Caller: "spiffe://test/operator", RequestID: "act-1",
		Action: ActionReloadPolicy, Outcome: OutcomeIntended, Principal: "alice",
		Subject: strings.Repeat("ab", 32), Reason: "a new caller", Detail: "principal x added",
	}
	decision := Record{Time: time.Unix(1_700_000_000, 2).UTC(), Caller: "c", RequestID: "r", Method: MethodVerify, Verdict: 1}
	if err := j.AppendAct(context.Background(), act); err != nil {
		t.Fatal(err)
	}
	if err := j.AppendWait(context.Background(), decision); err != nil {
		t.Fatal(err)
	}
	long := act
	long.Detail = strings.Repeat("x", MaxFieldBytes+1)
	if err := j.AppendAct(context.Background(), long); err == nil {
		t.Error("a field over the limit was taken")
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	act.Kind, act.Sequence = KindAdministration, 1
	decision.Kind, decision.Sequence = KindDecision, 2
	var got []Record
	for r, err := range ReadDir(dir) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	if diff := cmp.Diff([]Record{act, decision}, got); diff != "" {
		t.Error(diff)
	}
}

// A decision is written as it was before there were acts, byte for byte.
func TestDecisionsKeepTheirForm(t *testing.T) {
	b, err := appendRecord(nil, &Record{Kind: KindDecision, Caller: "c"})
	if err != nil || b[framePrefixBytes] != 1 {
		t.Fatalf("version %d, %v", b[framePrefixBytes], err)
	}
	act, err := appendRecord(nil, &Record{Kind: KindAdministration, Action: ActionTryPolicy, Outcome: OutcomeDone})
	if err != nil || act[framePrefixBytes] != 2 {
		t.Fatalf("version %d, %v", act[framePrefixBytes], err)
	}
	marked := Record{Kind: KindAdministration, Action: ActionSuspend, Outcome: OutcomeDone, StateSequence: 1 << 40}
	b, err = appendRecord(nil, &marked)
	if err != nil || b[framePrefixBytes] != 4 {
		t.Fatalf("version %d, %v", b[framePrefixBytes], err)
	}
	if back, _, err := decodeRecord(b); err != nil || back.StateSequence != marked.StateSequence || back.Action != marked.Action {
		t.Errorf("read back %+v, %v", back, err)
	}
	for name, spoil := range map[string]func(body []byte) []byte{
		"no sequence":        func(b []byte) []byte { b[0] = 4; return append(b, 0) },
		"version 4, cut":     func(b []byte) []byte { b[0] = 4; return b },
		"version 5":          func(b []byte) []byte { b[0] = 5; return b },
		"version 3":          func(b []byte) []byte { b[0] = 3; return b },
		"act as version 1":   func(b []byte) []byte { b[0] = 1; return b },
		"decision as an act": func(b []byte) []byte { b[1] = byte(KindDecision); return b },
		"cut":                func(b []byte) []byte { return b[:len(b)-1] },
		"longer":             func(b []byte) []byte { return append(b, 0) },
	} {
		body := spoil(append([]byte(nil), act[framePrefixBytes:]...))
		if _, err := decodeBody(body); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}
