// Package server is the gRPC service of the daemon: it reads taps, has them
// decided, and sends no verdict before the journal holds it.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/verdict"
	"github.com/tapseal/tapseal/keys"
)

const (
	handshakeTimeout = 5 * time.Second  // of a new connection
	pingEvery        = 30 * time.Second // to find connections whose caller is gone
	pingTimeout      = 10 * time.Second
	pingAtMostEvery  = 10 * time.Second // what callers may do
	settleTimeout    = 12 * time.Second // the longest deadline, and the journal after it
)

var errJournal = errors.New("decisions cannot be recorded")

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
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Complete()
	if err := cfg.Check(); err != nil {
		return fmt.Errorf("checking configuration: %w", err)
	}
	d, err := open(cfg, deps)
	if err != nil {
		return fmt.Errorf("starting: %w", err)
	}
	return d.run(ctx)
}

// A daemon is everything that Run opens.
type daemon struct {
	cfg     config.Daemon
	deps    Deps
	engine  *engine
	journal *audit.Journal
	pool    *hsm.Pool
	grpc    *grpc.Server
	health  *health.Server
	listen  net.Listener
	metrics net.Listener // nil is none
	web     *http.Server

	background sync.WaitGroup
}

// open makes a daemon, or nothing: what it opened before an error it closes.
func open(cfg config.Daemon, deps Deps) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, deps: deps}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.closeResources())
		}
	}()
	tlsConfig, err := loadTLS(cfg.TLS)
	if err != nil {
		return nil, err
	}
	assignments, err := keys.LoadAssignments(cfg.Assignments)
	if err != nil {
		return nil, err
	}
	metrics := observability.NewMetrics(deps.Version)
	d.journal, err = audit.Open(cfg.Journal.Dir, audit.Options{Log: deps.Log, OnCommit: metrics.Committed})
	if err != nil {
		return nil, fmt.Errorf("journal.dir: %w", err)
	}
	d.pool, err = hsm.NewPool(hsm.Options{SocketDir: cfg.HSM.SocketDir, MaxInFlight: 2 * cfg.Limits.TapsInFlight, Log: deps.Log})
	if err != nil {
		return nil, fmt.Errorf("hsm.socket_dir: %w", err)
	}
	rules := verdict.Rules{Assignments: assignments, Keys: d.pool, DefaultTimeout: cfg.DefaultTimeout()}
	d.engine = newEngine(rules, d.pool, d.journal, metrics, deps.Log)
	d.engine.gate, d.engine.tapsInStream = newGate(cfg.Limits.TapsInFlight), cfg.Limits.TapsInStream
	metrics.Watch(observability.Sources{InFlight: d.engine.gate.inFlight, Pool: d.pool.Stats, Journal: d.journal.Stats})
	d.web = metrics.Server(cfg.Profiling)
	d.makeGRPC(credentials.NewTLS(tlsConfig))
	return d, d.openListeners()
}

func (d *daemon) openListeners() error {
	l, err := net.Listen("tcp", d.cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	d.listen = limitListener(l, d.cfg.Limits.Connections)
	if d.cfg.MetricsListen == "" {
		return nil
	}
	if d.metrics, err = net.Listen("tcp", d.cfg.MetricsListen); err != nil {
		return fmt.Errorf("metrics_listen: %w", err)
	}
	return nil
}

func (d *daemon) makeGRPC(creds credentials.TransportCredentials) {
	l := &d.cfg.Limits
	d.grpc = grpc.NewServer(
		grpc.Creds(creds),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.ChainUnaryInterceptor(d.engine.recoverUnary),
		grpc.ChainStreamInterceptor(d.engine.recoverStream),
		grpc.MaxRecvMsgSize(l.MessageBytes),
		grpc.MaxConcurrentStreams(uint32(l.Streams)), //nolint:gosec // checked by config
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAtMostEvery, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: pingEvery, Timeout: pingTimeout,
			MaxConnectionAge:  time.Duration(l.ConnectionAgeSec) * time.Second,
			MaxConnectionIdle: time.Duration(l.IdleSec) * time.Second,
		}),
	)
	tapsealv1.RegisterCryptogramServiceServer(d.grpc, &service{e: d.engine})
	d.health = health.NewServer()
	d.engine.announceStart(d.health)
	healthpb.RegisterHealthServer(d.grpc, d.health)
	reflection.Register(d.grpc)
}

// run serves until ctx ends or recording fails.
func (d *daemon) run(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	failed := make(chan error, 2)
	d.background.Go(func() {
		if err := d.grpc.Serve(d.listen); err != nil {
			failed <- fmt.Errorf("serving gRPC: %w", err)
		}
	})
	if d.metrics != nil {
		d.background.Go(func() {
			if err := d.web.Serve(d.metrics); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving metrics: %w", err)
			}
		})
	}
	if d.deps.Ready != nil {
		d.deps.Ready(d.addresses())
	}
	d.background.Go(func() { d.engine.watchHealth(watching, d.health, d.deps.Serving) })
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	case err := <-d.journal.Failed():
		// Nothing can be decided any more: end at once, so that callers
		// go elsewhere and a new process looks at what is on the disk.
		cause = fmt.Errorf("recording decisions: %w", errors.Join(errJournal, err))
	}
	stopWatching()
	return errors.Join(cause, d.stop(cause != nil))
}

func (d *daemon) addresses() Addresses {
	a := Addresses{GRPC: d.listen.Addr()}
	if d.metrics != nil {
		a.Metrics = d.metrics.Addr()
	}
	return a
}
