package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
)

// refusals are the journal's records of refused calls and connections, and how
// many refusals they count by caller and subject.
func (r *rig) refusals(t *testing.T) (all []audit.Record, count map[string]int) {
	t.Helper()
	count = map[string]int{}
	for _, rec := range r.acts() {
		if rec.Outcome != audit.OutcomeRefused {
			continue
		}
		all = append(all, rec)
		count[rec.Caller+" "+rec.Subject] += counted(t, rec)
	}
	return all, count
}

func counted(t *testing.T, rec audit.Record) (n int) {
	t.Helper()
	if _, err := fmt.Sscanf(rec.Detail, "%d refused since the last such record, the latest: ", &n); err != nil {
		t.Fatalf("detail %q: %v", rec.Detail, err)
	}
	return n
}

// TestRefusedCallsAreOnRecord asks as real clients for what they may not do.
func TestRefusedCallsAreOnRecord(t *testing.T) {
	const tries = 20
	r := newRig(t, "visa")
	ctx, begun := context.Background(), time.Now()
	caller := r.admin(t, "client")
	for range tries {
		if _, err := caller.GetStatus(ctx, &tapsealv1.GetStatusRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Fatal(err)
		}
	}
	if _, err := r.admin(t, "auditor").RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{Reason: "x"}); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	if err := r.as(t, r.clientTLS("operator"), visaCase().tap(t, "person")); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	if _, err := r.admin(t, "nobody").GetStatus(ctx, &tapsealv1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Fatal(err)
	}
	if err := r.conn.Invoke(ctx, "/a.b/4111111111111111", &tapsealv1.GetStatusRequest{}, &tapsealv1.GetStatusResponse{}); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	if _, err := r.admin(t, "operator").GetStatus(ctx, &tapsealv1.GetStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"client", "nobody"} {
		scraper := http.Client{Transport: &http.Transport{TLSClientConfig: r.clientConfig(name), DisableKeepAlives: true}}
		if resp, err := scraper.Get("https://" + r.address.Metrics.String() + "/metrics"); err != nil || resp.Body.Close() != nil || resp.StatusCode == http.StatusOK {
			t.Fatalf("metrics: %v, %v", resp, err)
		}
	}
	r.stopQuietly(t)
	all, count := r.refusals(t)
	for who, want := range map[string]int{
		callerURI + " tapseal.v1.AdminService/GetStatus":               tries,
		auditorURI + " tapseal.v1.AdminService/RecycleWorkers":         1,
		operatorURI + " tapseal.v1.CryptogramService/VerifyCryptogram": 1,
		callerURI + " none": 1,
	} {
		if count[who] != want {
			t.Errorf("%s: %d on record, want %d", who, count[who], want)
		}
	}
	if count[" admin"] == 0 {
		t.Errorf("the stranger is not on record: %v", count)
	}
	// The first at once and one for each ten seconds, or the end, of each kind.
	if most := 7 * (2 + int(time.Since(begun)/refusedEvery)); len(all) > most || len(count) != 7 {
		t.Errorf("%d records of %d kinds", len(all), len(count))
	}
	for _, rec := range all {
		r.checkRefusal(t, rec)
	}
}

func (r *rig) checkRefusal(t *testing.T, rec audit.Record) {
	t.Helper()
	switch {
	case rec.Action == audit.ActionConnect, rec.Caller == "":
		if rec.Caller != "" || rec.Principal != "" || !strings.Contains(rec.Detail, "UNAUTHENTICATED: ") || !strings.HasSuffix(rec.Detail, "spiffe://test/nobody") {
			t.Errorf("the stranger: %+v", rec)
		}
	case rec.Action != audit.ActionCall || rec.Principal == "" || !strings.Contains(rec.Detail, "PERMISSION_DENIED: the policy does not allow this method"):
		t.Errorf("record %+v", rec)
	}
	if strings.Contains(fmt.Sprint(rec), "4111") {
		t.Errorf("what a caller wrote is in %+v", rec)
	}
}

// TestDeniedKeySetsAreOnRecord: of a stream, too, where they are no error.
func TestDeniedKeySetsAreOnRecord(t *testing.T) {
	const taps = 30
	r := newRig(t, "visa", func(r *rig) { r.writePolicy(testPeople(), wideKeySets, otherKeySets) })
	if _, err := r.verify(visaCase().tap(t, "one")); status.Code(err) != codes.PermissionDenied {
		t.Fatal(err)
	}
	var many []*tapsealv1.Tap
	for i := range taps {
		many = append(many, visaCase().tap(t, fmt.Sprintf("tap-%d", i)))
	}
	for _, res := range exchange(t, r, many...) {
		if codes.Code(res.GetError().GetCode()) != codes.PermissionDenied {
			t.Fatalf("%v", res)
		}
	}
	r.stopQuietly(t)
	all, count := r.refusals(t)
	if one, stream := count[callerURI+" tapseal.v1.CryptogramService/VerifyCryptogram"], count[callerURI+" tapseal.v1.CryptogramService/VerifyCryptograms"]; one != 1 || stream != taps {
		t.Errorf("on record: %v", count)
	}
	for _, rec := range all {
		if rec.Action != audit.ActionCall || rec.Principal != "developer" || !strings.Contains(rec.Detail, "PERMISSION_DENIED: "+errKeySet.text) {
			t.Errorf("record %+v", rec)
		}
	}
	if len(r.records()) != 0 {
		t.Error("decisions are on record")
	}
}

// slowRefusals has a time that stands still, and nobody who writes.
func slowRefusals(t *testing.T) (*refusedJournal, *rig, *time.Time) {
	t.Helper()
	k, r := newKeeper(t)
	now := time.Unix(1_700_000_000, 0)
	j := &refusedJournal{journal: k.journal, log: slog.New(slog.NewJSONHandler(r.log, nil)), now: func() time.Time { return now }, kinds: map[refusedKind]*refusedCount{}, wake: make(chan struct{}, 1)}
	return j, r, &now
}

func TestRationOfRefusals(t *testing.T) {
	j, r, now := slowRefusals(t)
	a, b := refusedKind{audit.ActionCall, "a", "m"}, refusedKind{audit.ActionCall, "b", "m"}
	step := func(all bool, want ...int) {
		t.Helper()
		before, _ := r.refusals(t)
		j.write(j.take(all))
		after, _ := r.refusals(t)
		var got []int
		for _, rec := range after[len(before):] {
			got = append(got, counted(t, rec))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("recorded %v, want %v", got, want)
		}
	}
	j.note(a, "", "x", 1)
	step(false, 1)
	j.note(a, "", "x", 1)
	j.note(a, "", "x", 4)
	step(false)
	*now = now.Add(refusedEvery - 1)
	step(false)
	j.note(b, "", "x", 2) // another caller does not wait for the first
	step(false, 2)
	*now = now.Add(1)
	step(false, 5)
	*now = now.Add(refusedEvery)
	step(false) // nothing came
	j.note(a, "", "x", 1)
	step(false, 1)
	j.note(a, "", "x", 3)
	step(true, 3) // the end does not wait
	for i := range 3 * maxRefusedKinds {
		j.note(refusedKind{audit.ActionCall, fmt.Sprint(i), "m"}, "", "x", 1)
	}
	if len(j.kinds) > maxRefusedKinds+1 {
		t.Errorf("%d kinds are kept", len(j.kinds))
	}
	if rest := j.kinds[refusedRest]; rest == nil || rest.since < 2*maxRefusedKinds {
		t.Errorf("the rest: %+v", rest)
	}
	j.note(a, "", "x", 0)
	(*refusedJournal)(nil).note(a, "", "x", 1)
}

// What the journal did not take is counted again, and does not grow.
func TestRefusalsOutliveAFullDisk(t *testing.T) {
	j, r, now := slowRefusals(t)
	k := refusedKind{audit.ActionCall, "a", "m"}
	j.note(k, "", "x", 3)
	restore := limitFileSize(t)
	j.write(j.take(false))
	restore()
	if !strings.Contains(r.log.String(), "refused calls could not be recorded") || j.kinds[k].since != 3 {
		t.Errorf("%+v, log %s", j.kinds[k], r.log)
	}
	j.note(k, "", "x", 1)
	*now = now.Add(refusedEvery)
	j.write(j.take(false))
	if _, count := r.refusals(t); count["a m"] != 4 {
		t.Errorf("on record: %v", count)
	}
}

// The writer does its work by itself, and the rest at the end.
func TestRefusalsAreWrittenByThemselves(t *testing.T) {
	k, r := newKeeper(t)
	j := newRefusedJournal(k.journal, slog.New(slog.DiscardHandler))
	kind := refusedKind{audit.ActionCall, "a", "m"}
	j.note(kind, "", "x", 1)
	r.eventually(t, "the first is on record", func() bool { _, count := r.refusals(t); return count["a m"] == 1 })
	j.note(kind, "", "x", 2)
	j.close()
	if all, count := r.refusals(t); count["a m"] != 3 || len(all) != 2 {
		t.Errorf("%d records, %v", len(all), count)
	}
}
