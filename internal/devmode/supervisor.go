package devmode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Restarting a supervisor that ended by itself.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	// steadyAfter is how long it must have run for the pause to start again
	// from the first one.
	steadyAfter = 10 * time.Second
	// stopWithin is what a supervisor gets for draining its workers before
	// it is killed.
	stopWithin = 10 * time.Second
)

// keepSupervisor runs `tapseal-hsm supervise` until ctx is done, starting it
// again after growing pauses whenever it ends by itself. started is called
// with each ending before the first pause; it may give up by returning an
// error.
func keepSupervisor(ctx context.Context, c supervisorCommand, ended func(error) error) error {
	pause := firstPause
	for {
		begun := time.Now()
		err := c.run(ctx)
		if ctx.Err() != nil {
			return err
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		if err := ended(err); err != nil {
			return err
		}
		if time.Since(begun) > steadyAfter {
			pause = firstPause
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, longestPause)
	}
}

// A supervisorCommand starts one supervisor process.
type supervisorCommand struct {
	binary string
	config string
	log    *os.File
	slog   *slog.Logger
}

// run starts the supervisor and waits for its end. When ctx is done it closes
// the child's standard input, which asks it to end, as does the end of this
// process, however it comes.
func (c supervisorCommand) run(ctx context.Context) error {
	cmd := exec.Command(c.binary, "supervise", "--config", c.config, "--exit-on-stdin-close")
	cmd.Stdout, cmd.Stderr = c.log, c.log
	// A group of its own: an interrupt typed at the terminal is for us, and
	// we stop the workers after the last request and not before.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting %s: %w", c.binary, err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", c.binary, err)
	}
	c.slog.Info("supervisor started", "pid", cmd.Process.Pid)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return stop(stdin, cmd.Process, done)
	}
}

func stop(stdin io.Closer, p *os.Process, done <-chan error) error {
	if err := stdin.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("stopping the supervisor: %w", err)
	}
	select {
	case err := <-done:
		return err
	case <-time.After(stopWithin):
		killed := p.Kill()
		return errors.Join(fmt.Errorf("the supervisor did not stop within %s and was killed", stopWithin), killed, <-done)
	}
}
