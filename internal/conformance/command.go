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
	Progress io.Writer // nil: none; meant for a terminal only

	// Start makes the token ready. It is called once, and the token is closed
	// at the end.
	Start func(ctx context.Context) (Executor, io.Closer, error)
}

// Run runs every vector of every file and returns the exit status. The error
// says why there is no report. When ctx ends or the token goes away, the
// report says that it is not complete.
func (c *Command) Run(ctx context.Context) (status int, err error) {
	if len(c.Files) == 0 {
		return StatusUndecided, errors.New("no vector files given")
	}
	exec, closer, err := c.Start(ctx)
	if err != nil {
		return StatusUndecided, err
	}
	report := NewReport()
	switch err := c.runFiles(ctx, NewRunner(exec), report); {
	case ctx.Err() != nil:
		report.Stopped = "interrupted"
	case err != nil:
		report.Stopped = err.Error()
	}
	c.clearProgress()
	if err := errors.Join(c.write(report), closer.Close()); err != nil {
		return StatusUndecided, err
	}
	switch {
	case report.Stopped != "":
		return StatusUndecided, nil
	case report.Failed > 0:
		return StatusFailed, nil
	}
	return StatusPassed, nil
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
