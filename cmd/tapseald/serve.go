package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/tapseal/tapseal/internal/buildinfo"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/server"
)

// ServeCmd is tapseald serve.
type ServeCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Configuration file."`
}

// Run serves until SIGTERM or SIGINT, then drains.
func (c *ServeCmd) Run(ctx context.Context) error {
	cfg, err := config.LoadDaemon(c.Config)
	if err != nil {
		return err
	}
	if err := server.HardenProcess(); err != nil {
		return err
	}
	server.TuneRuntime(cfg.Limits)
	log := observability.NewLog(os.Stderr)
	reload, stop := onHangup()
	defer stop()
	return server.Run(ctx, *cfg, server.Deps{
		Log:     log,
		Version: buildinfo.Read().Version,
		Ready: func(a server.Addresses) {
			log.Info("listening", "grpc", a.GRPC.String())
			if a.Admin != nil {
				log.Info("listening", "admin", a.Admin.String())
			}
			if a.Metrics != nil {
				log.Info("listening", "metrics", a.Metrics.String())
			}
		},
		Reload: reload,
	})
}

// onHangup turns SIGHUP into values: the policy is read again. One that comes
// while another is at work is kept.
func onHangup() (reload <-chan struct{}, stop func()) {
	signals, out, done := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	go func() {
		for {
			select {
			case <-done:
				return
			case <-signals:
			}
			select {
			case <-done:
				return
			case out <- struct{}{}:
			}
		}
	}()
	return out, func() {
		signal.Stop(signals)
		close(done)
	}
}
