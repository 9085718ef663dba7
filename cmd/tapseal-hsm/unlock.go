package main

import (
	"fmt"
	"time"

	"github.com/tapseal/tapseal/hsm/supervisor"
)

// UnlockCmd removes the login latch. A running supervisor notices.
type UnlockCmd struct {
	Config string `help:"Configuration file." required:"" type:"path" placeholder:"FILE"`
	Yes    bool   `help:"Do it; without this the command only says what it would do."`
	JSON   bool   `help:"Print one JSON object."`
}

type unlockResult struct {
	Stopped  bool                    `json:"stopped"`  // logins were stopped before this command
	Unlocked bool                    `json:"unlocked"` // they are allowed now
	Latch    *supervisor.LatchRecord `json:"latch,omitempty"`
}

// Run says why logins are stopped and, with --yes, allows them again.
func (c *UnlockCmd) Run(out stdout) error {
	cfg, err := supervisor.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	record, stopped, err := supervisor.Unlock(cfg, c.Yes)
	if err != nil {
		return err
	}
	r := unlockResult{Stopped: stopped, Unlocked: stopped && c.Yes}
	if stopped {
		r.Latch = &record
	}
	if c.JSON {
		return printJSON(out, r)
	}
	if _, err := fmt.Fprintln(out, r.text()); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}

func (r *unlockResult) text() string {
	if !r.Stopped {
		return "logins are not stopped: nothing to do"
	}
	why := fmt.Sprintf("logins have been stopped since %s: %s", r.Latch.Time.Format(time.RFC3339), r.Latch.Reason)
	if r.Unlocked {
		return why + "\nlogins are allowed again"
	}
	return why + "\nnothing was changed (hint: with the right PIN where it comes from, run again with --yes)"
}
