// Package server is the gRPC service of the daemon: it reads taps, has them
// decided, and sends no verdict before the journal holds it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/store"
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
	Admin   net.Addr // nil if there is no administration listener
	Metrics net.Addr // nil if there is no metrics listener
}

// Deps are what a daemon needs beside its configuration. Every field may be zero.
type Deps struct {
	Log     *slog.Logger    // nil discards
	Version string          // for build info
	Ready   func(Addresses) // called once, when the listeners accept
	Serving func()          // called once, when the first canary came back right
	Reload  <-chan struct{} // each value reads the policy again; nil is never
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
	d, err := open(ctx, cfg, deps)
	if err != nil {
		return fmt.Errorf("starting: %w", err)
	}
	return d.run(ctx)
}

// A daemon is everything that Run opens.
type daemon struct {
	cfg          config.Daemon
	deps         Deps
	engine       *engine
	journal      *audit.Journal
	pool         *hsm.Pool
	state        *engineDoor
	store        *store.Store
	certificates *certificates
	live         *authz.Live
	keeper       *keeper
	health       *health.Server
	data         *grpc.Server
	admin        *grpc.Server // nil is none
	web          *http.Server // nil is none
	refusals     *rationed
	records      *refusedJournal
	started      time.Time

	listeners listeners

	background sync.WaitGroup
}

// listeners are the bound addresses; nil is none.
type listeners struct{ data, admin, metrics net.Listener }

// open makes a daemon, or nothing: what it opened before an error it closes.
func open(ctx context.Context, cfg config.Daemon, deps Deps) (_ *daemon, err error) {
	d := &daemon{cfg: cfg, deps: deps, live: authz.NewLive(), started: time.Now()}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.closeResources())
		}
	}()
	if _, err := d.live.Load(cfg.Policy); err != nil {
		return nil, err
	}
	assignments, err := keys.LoadAssignments(cfg.Assignments)
	if err != nil {
		return nil, err
	}
	if d.certificates, err = openCertificates(ctx, &d.cfg, deps.Log); err != nil {
		return nil, err
	}
	d.refusals = newRationed(deps.Log)
	metrics := observability.NewMetrics(deps.Version)
	d.journal, err = audit.Open(cfg.Journal.Dir, audit.Options{Log: deps.Log, OnCommit: metrics.Committed})
	if err != nil {
		return nil, fmt.Errorf("journal.dir: %w", err)
	}
	d.records = newRefusedJournal(d.journal, deps.Log)
	d.pool, err = hsm.NewPool(hsm.Options{SocketDir: cfg.HSM.SocketDir, MaxInFlight: 2 * cfg.Limits.TapsInFlight, Log: deps.Log})
	if err != nil {
		return nil, fmt.Errorf("hsm.socket_dir: %w", err)
	}
	if err := d.openState(ctx, metrics); err != nil {
		return nil, err
	}
	rules := verdict.Rules{Assignments: assignments, Keys: d.pool, DefaultTimeout: cfg.DefaultTimeout()}
	d.engine = newEngine(rules, d.pool, d.store, d.journal, metrics, deps.Log)
	d.engine.patience = cfg.DefaultTimeout() / 4
	d.engine.gate, d.engine.tapsInStream = newGate(cfg.Limits.TapsInFlight, cfg.DefaultTimeout()*2/5), cfg.Limits.TapsInStream
	d.keeper = &keeper{live: d.live, file: cfg.Policy, journal: d.journal, metrics: metrics, log: deps.Log}
	return d, d.openDoors(ctx, metrics)
}

// openState opens the memory of tokens, unless it is older than the journal.
func (d *daemon) openState(ctx context.Context, metrics *observability.Metrics) (err error) {
	d.state, err = openState(ctx, &d.cfg.State, d.journal.ID(), d.certificates.vault, d.deps.Log)
	if err != nil {
		return err
	}
	if err := checkNotOlder(ctx, d.state, d.cfg.Journal.Dir, d.journal, time.Now()); err != nil {
		return err
	}
	d.store, err = store.New(ctx, d.state, store.Options{Log: d.deps.Log, Instance: d.state.instanceName(d.journal.ID()), OnCommit: metrics.StateCommitted})
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// openDoors makes the servers and binds their listeners. The policy must have a
// row for every method on any of them.
func (d *daemon) openDoors(ctx context.Context, metrics *observability.Metrics) error {
	data, err := d.certificates.door(ctx, "tls", d.cfg.TLS.ClientCA, d.cfg.TLS.CRL)
	if err != nil {
		return err
	}
	metrics.Watch(observability.Sources{
		InFlight: d.engine.gate.inFlight, Places: d.engine.gate.places, Ends: data.ends, Pool: d.pool.Stats, Journal: d.journal.Stats, State: d.store.Stats,
	})
	d.health = health.NewServer()
	d.engine.announceStart(d.health)
	d.data = d.newGRPC(data.credentials(d.live, d.cfg.Limits.Connections, d.refusals))
	tapsealv1.RegisterCryptogramServiceServer(d.data, &service{e: d.engine})
	if d.cfg.Admin.Listen != "" {
		door, err := d.certificates.door(ctx, "admin", d.cfg.Admin.ClientCA, d.cfg.Admin.CRL)
		if err != nil {
			return err
		}
		door.records = d.records
		d.admin = d.newGRPC(door.credentials(d.live, sideConnections, d.refusals))
		tapsealv1.RegisterAdminServiceServer(d.admin, &administration{
			e: d.engine, keeper: d.keeper, sockets: d.cfg.HSM.SocketDir, version: d.deps.Version, started: d.started, ends: data.ends,
			state: d.state, backups: d.cfg.State.Backups,
		})
	}
	if err := d.live.Require(d.methods()); err != nil {
		return fmt.Errorf("policy %s: %w", d.cfg.Policy, err)
	}
	if err := d.keeper.begin(ctx); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if err := d.bind(); err != nil {
		return err
	}
	if d.cfg.Metrics.Listen == "" {
		return nil
	}
	door, err := d.certificates.door(ctx, "metrics", d.cfg.Metrics.ClientCA, d.cfg.Metrics.CRL)
	if err != nil {
		return err
	}
	d.web = metrics.Server(d.cfg.Profiling, d.mayScrape(door))
	d.web.ErrorLog = slog.NewLogLogger(d.deps.Log.Handler(), slog.LevelWarn)
	d.listeners.metrics = tls.NewListener(d.listeners.metrics, door.serverTLS("http/1.1"))
	return nil
}

// methods are all that can be called, by full name.
func (d *daemon) methods() []string {
	var all []string
	for _, s := range []*grpc.Server{d.data, d.admin} {
		if s != nil {
			all = append(all, registered(s)...)
		}
	}
	if d.cfg.Metrics.Listen != "" {
		all = append(all, authz.MethodMetrics.String())
	}
	return all
}

// offered are the methods that a daemon of this configuration has, for a check
// that makes none.
func offered(cfg *config.Daemon) []string {
	d := &daemon{cfg: *cfg, data: grpc.NewServer()}
	registerCommon(d.data, health.NewServer())
	tapsealv1.RegisterCryptogramServiceServer(d.data, &service{})
	if cfg.Admin.Listen != "" {
		d.admin = grpc.NewServer()
		tapsealv1.RegisterAdminServiceServer(d.admin, &administration{})
	}
	return d.methods()
}

func registerCommon(s *grpc.Server, h *health.Server) {
	healthpb.RegisterHealthServer(s, h)
	reflection.Register(s)
}

func registered(s *grpc.Server) (names []string) {
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			names = append(names, service+"/"+m.Name)
		}
	}
	return names
}

// sideConnections bounds the connections of administration and of metrics.
const sideConnections = 64

func (d *daemon) bind() error {
	for _, b := range []struct {
		key, address string
		connections  int
		to           *net.Listener
	}{
		{"listen", d.cfg.Listen, d.cfg.Limits.Connections, &d.listeners.data},
		{"admin.listen", d.cfg.Admin.Listen, sideConnections, &d.listeners.admin},
		{"metrics.listen", d.cfg.Metrics.Listen, sideConnections, &d.listeners.metrics},
	} {
		if b.address == "" {
			continue
		}
		l, err := net.Listen("tcp", b.address)
		if err != nil {
			return fmt.Errorf("%s: %w", b.key, err)
		}
		*b.to = limitListener(l, b.connections, func() {
			d.refusals.warn("full|"+b.key, "a listener has as many connections as it may: others wait", "listener", b.key)
		})
	}
	return nil
}

// newGRPC makes a server that lets in whom the policy allows, and has what every
// listener has.
func (d *daemon) newGRPC(creds credentials.TransportCredentials) *grpc.Server {
	l := &d.cfg.Limits
	door := &porter{live: d.live, refused: d.engine.metrics.Refused, log: d.refusals, records: d.records}
	s := grpc.NewServer(
		grpc.Creds(creds),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.InTapHandle(door.admit),
		grpc.ChainUnaryInterceptor(d.engine.recoverUnary, requireCallerUnary),
		grpc.ChainStreamInterceptor(d.engine.recoverStream, d.engine.requireCallerStream),
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
	registerCommon(s, d.health)
	return s
}

// mayScrape asks the policy for the metrics' one method.
func (d *daemon) mayScrape(door *door) func(*http.Request) (int, error) {
	return func(r *http.Request) (int, error) {
		if r.TLS == nil {
			return http.StatusUnauthorized, errNoCaller
		}
		id := door.identify(r.TLS)
		c := &caller{id: id, view: d.live.Caller(id.uri), method: authz.MethodMetrics}
		_, err := c.principal(time.Now())
		d.records.refusedCall(c, err)
		switch status.Code(err) {
		case codes.OK:
			return 0, nil
		case codes.PermissionDenied:
			return http.StatusForbidden, err
		default:
			return http.StatusUnauthorized, err
		}
	}
}

// run serves until ctx ends or recording fails.
func (d *daemon) run(ctx context.Context) error {
	watching, stopWatching := context.WithCancel(context.Background())
	defer stopWatching()
	failed := make(chan error, 3)
	d.serve(failed)
	if d.deps.Ready != nil {
		d.deps.Ready(d.addresses())
	}
	d.background.Go(func() { d.engine.watchHealth(watching, d.health, d.deps.Serving) })
	d.background.Go(func() { d.watchReload(watching) })
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	case err := <-d.journal.Failed():
		// Nothing can be decided any more: end at once, so that callers
		// go elsewhere and a new process looks at what is on the disk.
		cause = fmt.Errorf("recording decisions: %w", errors.Join(errJournal, err))
	case err := <-d.store.Failed():
		// Nobody knows what the medium holds: a new process looks.
		cause = fmt.Errorf("remembering tokens: %w", err)
	case <-d.state.broken:
		cause = fmt.Errorf("remembering tokens: %w", state.ErrBroken)
	}
	stopWatching()
	return errors.Join(cause, d.stop(cause != nil))
}

// serve starts to accept on every listener.
func (d *daemon) serve(failed chan<- error) {
	d.background.Go(func() {
		if err := d.data.Serve(d.listeners.data); err != nil {
			failed <- fmt.Errorf("serving gRPC: %w", err)
		}
	})
	if d.admin != nil {
		d.background.Go(func() {
			if err := d.admin.Serve(d.listeners.admin); err != nil {
				failed <- fmt.Errorf("serving administration: %w", err)
			}
		})
	}
	if d.web != nil {
		d.background.Go(func() {
			if err := d.web.Serve(d.listeners.metrics); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving metrics: %w", err)
			}
		})
	}
}

func (d *daemon) watchReload(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.deps.Reload:
			d.keeper.reload(ctx)
		}
	}
}

func (d *daemon) addresses() Addresses {
	a := Addresses{GRPC: d.listeners.data.Addr()}
	if d.listeners.admin != nil {
		a.Admin = d.listeners.admin.Addr()
	}
	if d.listeners.metrics != nil {
		a.Metrics = d.listeners.metrics.Addr()
	}
	return a
}
