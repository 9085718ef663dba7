package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/observability"
)

func (r *rig) mustEnd(t *testing.T) {
	t.Helper()
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) inspect(t *testing.T) *StateReport {
	t.Helper()
	report, err := InspectState(context.Background(), &r.cfg, observability.NewLog(r.log))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func (r *rig) accept(a Acceptance) (*StateReport, error) {
	a.FloorDate, a.Reason = time.Now(), "test"
	return AcceptState(context.Background(), &r.cfg, a, observability.NewLog(r.log))
}

// mustNotServe starts the daemon, which must end with this error.
func (r *rig) mustNotServe(t *testing.T, why string) {
	t.Helper()
	err := Run(context.Background(), r.cfg, Deps{Log: observability.NewLog(r.log)})
	if err == nil || !strings.Contains(err.Error(), why) {
		t.Fatalf("the daemon ended with %v, want %q", err, why)
	}
}

// check is what tapseald check says of the rig's configuration.
func (r *rig) check(t *testing.T) Report {
	t.Helper()
	cfg := r.cfg
	cfg.Listen, cfg.Admin, cfg.Metrics = "127.0.0.1:7443", config.Listener{}, config.Listener{}
	data, err := cfg.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.dir, "check.yaml")
	_ = os.Remove(path)
	r.write("check.yaml", string(data))
	return Check(context.Background(), path)
}

func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
}

func actionsOf(report *StateReport) (actions []string) {
	for _, a := range report.Acts {
		actions = append(actions, a.Action+" "+a.Subject)
	}
	return actions
}

// TestActsThatARestoreLoses: what operators did since the state was saved makes
// it an older one, also where no tap came, and is listed.
func TestActsThatARestoreLoses(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	r.administrator(t, "operator").suspend(theBIN("999999"))
	r.ask(t, c.tap("a", 10), valid, fresh)
	r.mustEnd(t)
	backup, again := filepath.Join(r.dir, "backup"), filepath.Join(r.dir, "again")
	for _, to := range []string{backup, again} {
		if err := os.CopyFS(to, os.DirFS(r.path("state"))); err != nil {
			t.Fatal(err)
		}
	}
	r.startDaemon()
	r.administrator(t, "operator").suspend(theBIN("888888"))
	r.mustEnd(t)
	newest := filepath.Join(r.dir, "newest")
	move(t, r.path("state"), newest)
	move(t, backup, r.path("state"))
	report := r.inspect(t)
	if diff := cmp.Diff([]string{"suspend bin 888888"}, actionsOf(report)); diff != "" || !report.Older || report.Stops != 1 {
		t.Errorf("without a tap: %+v\n%s", report, diff)
	}
	if a := report.Acts[0]; a.By != "operator" || a.Reason != "test" || time.Since(a.Time) > time.Hour {
		t.Errorf("the act: %+v", a)
	}
	r.mustNotServe(t, "older than the journal")
	move(t, newest, r.path("state"))
	r.startDaemon()
	r.dial()
	r.ask(t, c.tap("b", 11), valid, fresh)
	r.administrator(t, "operator").suspend(theBIN("777777"))
	r.administrator(t, "operator").resume(theBIN("777777"))
	r.mustEnd(t)
	move(t, again, r.path("state"))
	r.acceptsWithActs(t, "suspend bin 888888", "suspend bin 777777", "resume bin 777777")
	r.refusesToAcceptAgain(t)
}

func (r *rig) acceptsWithActs(t *testing.T, want ...string) {
	t.Helper()
	for _, apply := range []bool{false, true} {
		report, err := r.accept(Acceptance{Apply: apply})
		if err != nil || report.Older == apply || report.NothingToAccept != apply {
			t.Fatalf("apply %t: %+v, %v", apply, report, err)
		}
		if diff := cmp.Diff(want, actionsOf(report)); diff != "" {
			t.Errorf("acts, apply %t:\n%s", apply, diff)
		}
	}
}

func (r *rig) refusesToAcceptAgain(t *testing.T) {
	t.Helper()
	if report, err := r.accept(Acceptance{}); err != nil || !report.NothingToAccept {
		t.Errorf("dry: %+v, %v", report, err)
	}
	if _, err := r.accept(Acceptance{Apply: true}); !errors.Is(err, errNotOlder) {
		t.Errorf("a state that is not older was accepted: %v", err)
	}
	if got := r.inspect(t).Generation; got != 1 {
		t.Errorf("generation %d after a refusal", got)
	}
	if report, err := r.accept(Acceptance{Apply: true, Force: true}); err != nil || report.Generation != 2 {
		t.Errorf("forced: %+v, %v", report, err)
	}
	if _, err := r.accept(Acceptance{FloorsRaised: true}); err == nil || !strings.Contains(err.Error(), "embedded") {
		t.Errorf("--floors-raised: %v", err)
	}
}

func TestAStateWithoutItsJournal(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	r.ask(t, newCardholder(t, r, testPAN).tap("a", 10), valid, fresh)
	r.mustEnd(t)
	const why = "the journal is empty, and the state is not"
	move(t, r.path("journal"), r.path("moved"))
	wantFinding(t, r.check(t), "journal.dir", why)
	r.mustNotServe(t, why)
	wantFinding(t, r.check(t), "journal.dir", why) // an empty one is there now
	if report := r.inspect(t); !report.JournalGone || report.Older || report.NothingToAccept || !strings.Contains(report.Problem, why) {
		t.Errorf("%+v", report)
	}
	report, err := r.accept(Acceptance{Apply: true})
	if err != nil || report.JournalGone || report.Problem != "" || report.Generation != 1 {
		t.Errorf("accepted: %+v, %v", report, err)
	}
	r.startDaemon()
}

// TestAnEmptyStateBesideAJournal: a backup was put inside the directory, or
// state.dir leads elsewhere.
func TestAnEmptyStateBesideAJournal(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	r.ask(t, newCardholder(t, r, testPAN).tap("a", 10), valid, fresh)
	r.mustEnd(t)
	why := fmt.Sprintf("the state in %s is new and empty: is state.dir right, was a backup copied into it instead of in its place?", r.path("state"))
	move(t, r.path("state"), r.path("moved"))
	wantFinding(t, r.check(t), "state.dir", why)
	r.mustNotServe(t, why)
	wantFinding(t, r.check(t), "state.dir", why) // it was made
	if report := r.inspect(t); !report.Empty || !report.Older || report.NothingToAccept || !strings.Contains(report.Problem, why) {
		t.Errorf("%+v", report)
	}
	report, err := r.accept(Acceptance{Apply: true})
	if err != nil || report.Empty || report.Older || report.Generation != 1 {
		t.Errorf("accepted: %+v, %v", report, err)
	}
	r.startDaemon()
}

func TestAcceptanceIsChecked(t *testing.T) {
	now := time.Date(2026, 5, 6, 12, 0, 0, 0, time.UTC)
	good := Acceptance{FloorDate: now.Add(14 * time.Hour), Apply: true}
	older := StateReport{Engine: enginePostgres, Older: true}
	for _, c := range []struct {
		name, want string
		change     func(*Acceptance, *StateReport)
	}{
		{"as it should be", "", func(*Acceptance, *StateReport) {}},
		{"far ahead", "--floor-date", func(a *Acceptance, _ *StateReport) { a.FloorDate = now.Add(49 * time.Hour) }},
		{"two days ahead", "", func(a *Acceptance, _ *StateReport) { a.FloorDate = now.Add(48 * time.Hour) }},
		{"last century", "--floor-date", func(a *Acceptance, _ *StateReport) {
			a.FloorDate = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)
		}},
		{"no date", "--floor-date", func(a *Acceptance, _ *StateReport) { a.FloorDate = time.Time{} }},
		{"slip in a dry run", "--floor-date", func(a *Acceptance, _ *StateReport) { a.FloorDate, a.Apply = time.Time{}, false }},
		{"first with floors raised", "--floors-raised", func(a *Acceptance, _ *StateReport) { a.FloorsRaised = true }},
		{"second with floors raised", "", func(a *Acceptance, r *StateReport) { a.FloorsRaised, r.Generation = true, 1 }},
		{"embedded with floors raised", "--floors-raised", func(a *Acceptance, r *StateReport) {
			a.FloorsRaised, r.Generation, r.Engine = true, 1, engineEmbedded
		}},
		{"nothing to accept", "--force", func(_ *Acceptance, r *StateReport) { r.Older, r.NothingToAccept = false, true }},
		{"nothing to accept, dry", "", func(a *Acceptance, r *StateReport) { a.Apply, r.Older, r.NothingToAccept = false, false, true }},
		{"forced", "", func(a *Acceptance, r *StateReport) { a.Force, r.Older, r.NothingToAccept = true, false, true }},
		{"forced without floors", "--floors-raised", func(a *Acceptance, r *StateReport) {
			a.Force, a.FloorsRaised, r.Generation = true, true, 1
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, r := good, older
			c.change(&a, &r)
			err := a.check(&r, now)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestStopTheDaemonFirst is said where a daemon is in the way, and not beside
// damage.
func TestStopTheDaemonFirst(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	const hint = "stop the daemon first"
	wantError := func(what string, cfg config.Daemon, key string, hinted bool) {
		t.Helper()
		_, err := InspectState(context.Background(), &cfg, observability.NewLog(r.log))
		if err == nil || !strings.HasPrefix(err.Error(), key) || strings.Contains(err.Error(), hint) != hinted {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantError("journal in use", r.cfg, "journal.dir: ", true)
	other := r.cfg
	other.Journal.Dir = r.path("other")
	wantError("state in use", other, "state.dir: ", true)
	r.mustEnd(t)
	other = r.cfg
	other.State.Dir = r.path("assignments.yaml")
	wantError("state is a file", other, "state.dir: ", false)
	segments, err := filepath.Glob(filepath.Join(r.path("journal"), "*.journal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("%d segments: %v", len(segments), err)
	}
	if err := os.WriteFile(segments[0], []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError("journal is damaged", r.cfg, "journal.dir: ", false)
}

func TestLostActsAreBounded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j, err := audit.Open(dir, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	decide := func(sequence uint64) {
		t.Helper()
		if err := j.AppendWait(context.Background(), audit.Record{StateSequence: sequence}); err != nil {
			t.Fatal(err)
		}
	}
	suspend := func(subject string, o audit.Outcome, a audit.Action) {
		t.Helper()
		if err := j.AppendAct(context.Background(), audit.Record{Action: a, Outcome: o, Principal: "p", Subject: subject, Reason: "why"}); err != nil {
			t.Fatal(err)
		}
	}
	suspend("known", audit.OutcomeDone, audit.ActionSuspend)
	decide(1)
	suspend("intended", audit.OutcomeIntended, audit.ActionSuspend)
	suspend("failed", audit.OutcomeFailed, audit.ActionDelete)
	suspend("refused", audit.OutcomeRefused, audit.ActionDelete)
	suspend("other", audit.OutcomeDone, audit.ActionReloadPolicy)
	decide(0) // a decision that changed nothing
	const acts = maxLostActs + 30
	for i := range acts {
		suspend(fmt.Sprint(i), audit.OutcomeDone, []audit.Action{
			audit.ActionSuspend, audit.ActionResume, audit.ActionDelete, audit.ActionRestrict, audit.ActionResetWindow,
		}[i%5])
	}
	decide(2)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := lostSince(context.Background(), dir, 1)
	if err != nil || len(l.acts) != maxLostActs || l.leftOut != 30 || l.problem != "" {
		t.Fatalf("%d acts, %d left out, %q, %v", len(l.acts), l.leftOut, l.problem, err)
	}
	if first, last := l.acts[0].Subject, l.acts[maxLostActs-1].Subject; first != "30" || last != fmt.Sprint(acts-1) {
		t.Errorf("from %s to %s", first, last)
	}
	if l, err = lostSince(context.Background(), dir, 2); err != nil || len(l.acts) != 0 || l.leftOut != 0 {
		t.Errorf("of a newer state: %+v, %v", l, err)
	}
	if l, err = lostSince(context.Background(), dir, 0); err != nil || len(l.acts) != maxLostActs || l.leftOut != 31 {
		t.Errorf("of an empty state: %d left out, %v", l.leftOut, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := lostSince(ctx, dir, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
