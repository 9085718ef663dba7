package main

import (
	"context"
	"os"

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
	return server.Run(ctx, *cfg, server.Deps{
		Log:     log,
		Version: version().Version,
		Ready: func(a server.Addresses) {
			log.Info("listening", "grpc", a.GRPC.String())
			if a.Metrics != nil {
				log.Info("listening", "metrics", a.Metrics.String())
			}
		},
	})
}
