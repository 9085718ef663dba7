package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/hsm/worker"
)

// CheckCmd checks configuration, token and keys.
type CheckCmd struct {
	Config string `help:"Configuration file." required:"" type:"path" placeholder:"FILE"`
	JSON   bool   `help:"Print one JSON object."`
}

// Run prints what is wrong, by configuration key.
func (c *CheckCmd) Run(out stdout, log *slog.Logger) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if err := worker.HardenProcess(); err != nil {
		return err
	}
	report, err := c.check(binary, log)
	if err != nil {
		return err
	}
	if c.JSON {
		err = printJSON(out, report)
	} else {
		err = printReport(out, report)
	}
	if err == nil && !report.OK {
		err = errReported
	}
	return err
}

func (c *CheckCmd) check(binary string, log *slog.Logger) (*supervisor.CheckReport, error) {
	cfg, err := supervisor.LoadConfig(c.Config)
	if err != nil {
		return nil, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	return supervisor.Check(ctx, cfg, supervisor.Options{Binary: binary, Log: log}), nil
}

func printReport(out stdout, r *supervisor.CheckReport) error {
	for _, k := range r.Keys {
		verdict := "proved"
		if !k.Proved {
			verdict = "NOT PROVED"
		}
		if _, err := fmt.Fprintf(out, "key set %s version %d: %s\n", k.Set, k.Version, verdict); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
	}
	for _, p := range r.Problems {
		if _, err := fmt.Fprintf(out, "%s: %s\n", p.Key, p.Problem); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
	}
	if r.Vault != "" {
		if _, err := fmt.Fprintf(out, "vault: %s\n", r.Vault); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
	}
	verdict := "everything is all right"
	if !r.OK {
		verdict = fmt.Sprintf("%d problems", len(r.Problems))
	}
	if _, err := fmt.Fprintf(out, "login: %s\n%s\n", r.Login, verdict); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}
