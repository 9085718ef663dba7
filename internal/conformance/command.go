package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"
)

// Exit status of a run.
const (
	StatusPassed    = 0 // nothing failed
	StatusFailed    = 1 // a vector failed, or a file could not be read
	StatusUndecided = 2 // wrong usage, no token, or interrupted
)

// A Command is one run over files, as the command line asks for it.
type Command struct {
	Files    []string
	JSON     bool
	Out      io.Writer // failures and report
	Err      io.Writer // why there is no report
	Progress io.Writer // nil: none; meant for a terminal only

	// Start makes the token ready. It is called once, and the token is closed
	// at the end.
	Start func(ctx context.Context) (Executor, io.Closer, error)
}

// Run runs every vector of every file and returns the exit status. When ctx
// ends, the report says that it is not complete.
func (c *Command) Run(ctx context.Context) int {
	if len(c.Files) == 0 {
		_, _ = fmt.Fprintln(c.Err, "tapseal conformance: no vector files given")
		return StatusUndecided
	}
	exec, closer, err := c.Start(ctx)
	if err != nil {
		_, _ = fmt.Fprintf(c.Err, "tapseal conformance: %v\n", err)
		return StatusUndecided
	}
	report := NewReport()
	err = c.runFiles(ctx, NewRunner(exec), report)
	report.Interrupted = err != nil
	if ctx.Err() != nil {
		err = nil // the person who interrupted knows
	}
	c.clearProgress()
	err = errors.Join(err, c.write(report), closer.Close())
	switch {
	case report.Interrupted && err == nil:
		return StatusUndecided
	case err != nil:
		_, _ = fmt.Fprintf(c.Err, "tapseal conformance: %v\n", err)
		return StatusUndecided
	case report.Failed > 0:
		return StatusFailed
	}
	return StatusPassed
}

func (c *Command) runFiles(ctx context.Context, runner *Runner, report *Report) error {
	var shown time.Time
	for _, path := range c.Files {
		f, err := ReadFile(path)
		if err != nil {
			c.fail(report.Unreadable(filepath.Base(path), err))
			continue
		}
		report.StartFile(f.Name, f.Len())
		done := 0
		err = runner.RunFile(ctx, f, func(res Result) {
			report.Add(res)
			c.fail(res)
			done++
			if c.Progress != nil && time.Since(shown) > progressEvery {
				shown = time.Now()
				_, _ = fmt.Fprintf(c.Progress, "\r\x1b[K%s %d/%d", quoteName(f.Name), done, f.Len())
			}
		})
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

// progressEvery keeps the terminal from being the slowest part.
const progressEvery = 100 * time.Millisecond

// fail prints a failure as it happens.
func (c *Command) fail(res Result) {
	if c.JSON || res.Status != Failed {
		return
	}
	c.clearProgress()
	_, _ = fmt.Fprintln(c.Out, res.Line())
}

func (c *Command) clearProgress() {
	if c.Progress != nil {
		_, _ = fmt.Fprint(c.Progress, "\r\x1b[K")
	}
}

func (c *Command) write(report *Report) error {
	write := report.WriteText
	if c.JSON {
		write = report.WriteJSON
	}
	if err := write(c.Out); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}
