package server

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/observability"
)

// newKeeper returns a keeper with a policy in force, and its log.
func newKeeper(t *testing.T) (*keeper, *rig) {
	t.Helper()
	r := &rig{tb: t, dir: t.TempDir(), log: &lockedBuffer{}}
	r.cfg.Journal.Dir = r.path("journal")
	r.writePolicy(testPeople())
	j, err := audit.Open(r.cfg.Journal.Dir, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	k := &keeper{
		live: authz.NewLive(), file: r.path("policy.yaml"), journal: j,
		metrics: observability.NewMetrics("test"), log: slog.New(slog.NewJSONHandler(r.log, nil)),
	}
	if _, err := k.live.Load(k.file); err != nil {
		t.Fatal(err)
	}
	return k, r
}

// acts reads what the journal has of acts.
func (r *rig) acts() (all []audit.Record) {
	r.tb.Helper()
	for rec, err := range audit.ReadDir(r.cfg.Journal.Dir) {
		if err != nil {
			r.tb.Fatal(err)
		}
		if rec.Kind == audit.KindAdministration {
			all = append(all, rec)
		}
	}
	return all
}

// TestPolicyInForceButNotRecorded: the journal fails between the intent and the
// outcome, when the new policy is in force already.
func TestPolicyInForceButNotRecorded(t *testing.T) {
	k, r := newKeeper(t)
	r.writePolicy(testPeople(), wideKeySets, otherKeySets)
	next, err := k.live.Try(k.file)
	if err != nil {
		t.Fatal(err)
	}
	var restore func()
	change, err := k.load(context.Background(), audit.Record{Reason: "test", Subject: next.After.String()}, func() (authz.Change, error) {
		c, err := k.live.LoadReviewed(k.file, next.After)
		restore = limitFileSize(t)
		return c, err
	})
	restore()
	if !errors.Is(err, errOutcomeNotRecorded) || errors.Is(err, errActNotRecorded) || !wasDone(err) {
		t.Errorf("error %v", err)
	}
	if change.After != next.After || k.live.Policy().Digest() != next.After {
		t.Error("the new policy is not in force")
	}
	if status.Code(actError(err)) != codes.Internal || !strings.Contains(actError(err).Error(), "was done") {
		t.Errorf("answer %v", actError(err))
	}
	log := r.log.String()
	if !strings.Contains(log, "policy in force, but not recorded") || !strings.Contains(log, next.After.String()) || strings.Contains(log, "stays as it is") {
		t.Errorf("log %s", log)
	}
	acts := r.acts()
	if len(acts) != 1 || acts[0].Outcome != audit.OutcomeIntended || acts[0].Subject != next.After.String() {
		t.Errorf("on record: %+v", acts)
	}
}

// TestFailureNotRecorded: an act that failed was not done, whatever became of
// its record.
func TestFailureNotRecorded(t *testing.T) {
	k, _ := newKeeper(t)
	failure := errors.New("broken")
	var restore func()
	err := act(context.Background(), k.journal, audit.Record{Action: audit.ActionReloadPolicy, Reason: "test"}, func(context.Context) (string, error) {
		restore = limitFileSize(t)
		return "", failure
	})
	restore()
	if !errors.Is(err, failure) || wasDone(err) || !strings.Contains(err.Error(), "recorded") {
		t.Errorf("error %v", err)
	}
	if status.Code(actError(err)) != codes.FailedPrecondition {
		t.Errorf("answer %v", actError(err))
	}
}

// TestSignalRecordsTheDigestFirst: the intent names the policy to come.
func TestSignalRecordsTheDigestFirst(t *testing.T) {
	k, r := newKeeper(t)
	r.writePolicy(testPeople(), wideKeySets, otherKeySets)
	k.reload(context.Background())
	digest := k.live.Policy().Digest().String()
	r.write("policy.yaml", "version: nonsense")
	k.reload(context.Background())
	want := []struct {
		outcome audit.Outcome
		subject string
	}{
		{audit.OutcomeIntended, digest},
		{audit.OutcomeDone, digest},
		{audit.OutcomeIntended, ""},
		{audit.OutcomeFailed, ""},
	}
	acts := r.acts()
	if len(acts) != len(want) {
		t.Fatalf("on record: %+v", acts)
	}
	for i, w := range want {
		if acts[i].Outcome != w.outcome || acts[i].Subject != w.subject {
			t.Errorf("act %d: %+v, want %+v", i, acts[i], w)
		}
	}
	if k.live.Policy().Digest().String() != digest || !strings.Contains(r.log.String(), "the policy stays as it is") {
		t.Errorf("after a fault; log %s", r.log)
	}
}

// TestSignalWithoutAJournal: no record, no new policy.
func TestSignalWithoutAJournal(t *testing.T) {
	k, r := newKeeper(t)
	before := k.live.Policy()
	r.writePolicy(testPeople(), wideKeySets, otherKeySets)
	restore := limitFileSize(t)
	k.reload(context.Background())
	restore()
	if k.live.Policy() != before || !strings.Contains(r.log.String(), "the policy stays as it is") {
		t.Errorf("the policy changed; log %s", r.log)
	}
}
