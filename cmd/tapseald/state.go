package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/server"
)

// StateCmd is tapseald state: care for the memory of tokens while the daemon is
// stopped.
type StateCmd struct {
	Show    StateShowCmd    `cmd:"" help:"Say how state and journal of a stopped daemon fit."`
	Accept  StateAcceptCmd  `cmd:"" help:"Accept a state that is older than the journal, after a restore. Says only what it would do, unless --apply."`
	Migrate StateMigrateCmd `cmd:"" help:"Bring the database to this version's schema. Says only what it would do, unless --apply."`
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
	fits := "as new as the journal"
	if r.Older {
		fits = "OLDER than the journal: the daemon does not start on it"
	}
	fmt.Printf("engine      %s\nstate       %s (commit %d, recorded %d)\ngeneration  %d\nstops       %d\n", r.Engine, fits, r.Sequence, r.Recorded, r.Generation, r.Stops)
	if r.Generation > 0 {
		fmt.Printf("floors      counters raised by %d, transaction dates after %s\n", r.Raise, r.FloorDate)
	}
	for _, line := range more {
		fmt.Println(line)
	}
	return nil
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
	Reason       string `help:"Why, for the journal: 1 to 200 characters. Needed with --apply."`
	Apply        bool   `help:"Do it."`
}

// Run accepts, or says what it would accept.
func (c *StateAcceptCmd) Run(ctx context.Context) error {
	cfg, log, err := c.load()
	if err != nil {
		return err
	}
	a := server.Acceptance{Raise: c.Raise, FloorsRaised: c.FloorsRaised, Reason: c.Reason}
	a.FloorDate = time.Now().UTC().Add(14 * time.Hour)
	if c.FloorDate != "" {
		if a.FloorDate, err = time.Parse(time.DateOnly, c.FloorDate); err != nil {
			return fmt.Errorf("--floor-date: must be YYYY-MM-DD")
		}
	}
	if !c.Apply {
		r, err := server.InspectState(ctx, cfg, log)
		if err != nil {
			return err
		}
		would := fmt.Sprintf("would refuse counters up to the highest known one plus %d, and unknown tokens with a transaction date up to %s", a.Raise, a.FloorDate.Format(time.DateOnly))
		if c.FloorsRaised {
			would = "would raise no floors"
		}
		return c.print(r, would, "nothing was changed; to do it: --apply --reason \"...\"")
	}
	if c.Reason == "" || len(c.Reason) > 200 {
		return fmt.Errorf("--reason: must be 1 to 200 characters")
	}
	r, err := server.AcceptState(ctx, cfg, a, log)
	if err != nil {
		return err
	}
	return c.print(r, "accepted; the daemon can be started")
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
