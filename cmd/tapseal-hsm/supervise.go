package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/hsm/worker"
)

// SuperviseCmd runs the supervisor until SIGTERM or an interrupt.
type SuperviseCmd struct {
	Config           string `help:"Configuration file." required:"" type:"path" placeholder:"FILE"`
	ExitOnStdinClose bool   `help:"End when standard input ends, for a parent process that may die."`
}

// Run supervises. It returns nil after the workers are drained.
func (c *SuperviseCmd) Run(log *slog.Logger) error {
	binary, err := os.Executable() // before hardening closes /proc/self
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if err := worker.HardenProcess(); err != nil {
		return err
	}
	cfg, err := supervisor.LoadConfig(c.Config)
	if err != nil {
		return err
	}
	s, err := supervisor.New(cfg, supervisor.Options{Binary: binary, Log: log})
	if err != nil {
		return fmt.Errorf("configuration %s: %w", c.Config, err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if c.ExitOnStdinClose {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	log.Info("supervisor starts", "config", c.Config, "workers", cfg.Workers, "socket_dir", cfg.SocketDir)
	return s.Run(ctx)
}
