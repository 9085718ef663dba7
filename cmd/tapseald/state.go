package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/server"
)

// StateCmd is tapseald state: care for the memory of tokens while the daemon is
// stopped.
type StateCmd struct {
	Show        StateShowCmd        `cmd:"" help:"Say how state and journal of a stopped daemon fit."`
	Accept      StateAcceptCmd      `cmd:"" help:"Accept a state that is older than the journal, after a restore. Says only what it would do, unless --apply."`
	EndRotation StateEndRotationCmd `cmd:"" help:"Forget the previous subject key. Says only what it would do, unless --apply."`
	Migrate     StateMigrateCmd     `cmd:"" help:"Bring the database to this version's schema. Says only what it would do, unless --apply."`
}

type stateFlags struct {
	Config string `required:"" placeholder:"FILE" help:"Configuration file of the daemon."`
	JSON   bool   `help:"Print JSON."`
}

func (f *stateFlags) load() (*config.Daemon, *slog.Logger, error) {
	if err := server.HardenProcess(); err != nil {
		return nil, nil, err
	}
	cfg, err := config.LoadDaemon(f.Config)
	return cfg, slog.New(slog.DiscardHandler), err
}

func (f *stateFlags) print(r *server.StateReport, more ...string) error {
	if f.JSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	writeReport(os.Stdout, r)
	for _, line := range more {
		fmt.Println(line)
	}
	return nil
}

// writeReport is the report for people.
func writeReport(w io.Writer, r *server.StateReport) {
	fits := "as new as the journal"
	switch {
	case r.JournalGone:
		fits = "WITHOUT ITS JOURNAL, which is empty: the daemon does not start"
	case r.Empty:
		fits = "EMPTY beside a journal with commits, so OLDER than the journal: the daemon does not start on it"
	case r.Older:
		fits = "OLDER than the journal: the daemon does not start on it"
	case r.LostBy != "":
		fits = "OLDER than the journal of instance " + r.LostBy + ": no daemon starts on it"
	}
	p := func(format string, a ...any) { _, _ = fmt.Fprintf(w, format+"\n", a...) }
	p("engine      %s\nstate       %s (commit %d, recorded %d)\ngeneration  %d\nstops       %d", r.Engine, fits, r.Sequence, r.Recorded, r.Generation, r.Stops)
	if r.Generation > 0 {
		p("floors      counters raised by %d, transaction dates after %s", r.Raise, r.FloorDate)
	}
	if r.Problem != "" {
		p("problem     %s", r.Problem)
	}
	if len(r.Acts) > 0 {
		p("acts since then, which the state may not know: repeat those that still hold")
	}
	if r.ActsLeftOut > 0 {
		p("  %d earlier ones are left out: tapseal journal show has them", r.ActsLeftOut)
	}
	for _, a := range r.Acts { // what others wrote is quoted
		p("  %s %s %q by %q: %q", a.Time.Format(time.RFC3339), a.Action, a.Subject, a.By, a.Reason)
	}
	if r.ActsProblem != "" {
		p("there may be more acts, because the journal could not be read as a whole: %s", r.ActsProblem)
	}
}

// StateShowCmd is tapseald state show.
type StateShowCmd struct{ stateFlags }

// Run prints the report.
func (c *StateShowCmd) Run(ctx context.Context) error {
	cfg, log, err := c.load()
	if err != nil {
		return err
	}
	r, err := server.InspectState(ctx, cfg, log)
	if err != nil {
		return err
	}
	return c.print(r)
}

// StateAcceptCmd is tapseald state accept.
type StateAcceptCmd struct {
	stateFlags
	Raise        uint16 `default:"200" help:"How many transactions a token can have made since the state was saved: counters up to the highest known one plus this are refused."`
	FloorDate    string `placeholder:"YYYY-MM-DD" help:"A token that the state does not know is accepted only with a later transaction date. Default: the latest date anywhere on earth now."`
	FloorsRaised bool   `help:"Another daemon on the same database has accepted already: raise no floors again."`
	Force        bool   `help:"Raise the floors although the state is not older than the journal."`
	Reason       string `help:"Why, for the journal: 1 to 200 characters. Needed with --apply."`
	Apply        bool   `help:"Do it."`
}

// Run accepts, or says what it would accept.
func (c *StateAcceptCmd) Run(ctx context.Context) error {
	cfg, log, err := c.load()
	if err != nil {
		return err
	}
	if c.Apply && (c.Reason == "" || len(c.Reason) > 200) {
		return fmt.Errorf("--reason: must be 1 to 200 characters")
	}
	a := server.Acceptance{Raise: c.Raise, FloorsRaised: c.FloorsRaised, Force: c.Force, Reason: c.Reason, Apply: c.Apply}
	a.FloorDate = time.Now().UTC().Add(14 * time.Hour)
	if c.FloorDate != "" {
		if a.FloorDate, err = time.Parse(time.DateOnly, c.FloorDate); err != nil {
			return fmt.Errorf("--floor-date: must be YYYY-MM-DD")
		}
	}
	r, err := server.AcceptState(ctx, cfg, a, log)
	if err != nil {
		return err
	}
	if c.Apply {
		return c.print(r, "accepted; the daemon can be started")
	}
	return c.print(r, would(r, &a)...)
}

// would say what accepting would do.
func would(r *server.StateReport, a *server.Acceptance) []string {
	if r.NothingToAccept && !a.Force {
		return []string{"the state is not older than the journal: nothing has to be accepted; --force raises the floors all the same"}
	}
	what := fmt.Sprintf("would refuse counters up to the highest known one plus %d, and unknown tokens with a transaction date up to %s", a.Raise, a.FloorDate.Format(time.DateOnly))
	if a.FloorsRaised {
		what = "would raise no floors"
	}
	return []string{what, "nothing was changed; to do it: --apply --reason \"...\""}
}

// StateMigrateCmd is tapseald state migrate.
type StateMigrateCmd struct {
	stateFlags
	Apply bool `help:"Do it."`
}

// Run migrates, or lists what it would do.
func (c *StateMigrateCmd) Run(ctx context.Context) error {
	cfg, log, err := c.load()
	if err != nil {
		return err
	}
	names, err := server.MigrateState(ctx, cfg, c.Apply, log)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"applied": c.Apply, "migrations": names})
	}
	verb := "would apply"
	if c.Apply {
		verb = "applied"
	}
	for _, n := range names {
		fmt.Println(verb, n)
	}
	if len(names) == 0 {
		fmt.Println("nothing to do")
	}
	return nil
}
