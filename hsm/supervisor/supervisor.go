package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/secrets"
)

// SocketName is the status socket in the socket directory.
const SocketName = "supervisor.sock"

// Options of a Supervisor that are not configuration.
type Options struct {
	Binary string   // the program whose "worker" subcommand is a worker
	Stderr *os.File // where workers log, default os.Stderr
	Log    *slog.Logger
	Clock  secrets.Clock // for how old a PIN may get, default the system's
}

// A Supervisor owns the sockets, the PIN and the worker processes.
type Supervisor struct {
	c        *Config
	options  Options
	log      *slog.Logger
	spawn    spawn
	manifest []byte
	logins   *logins
	slots    []*slot
	started  time.Time

	recycling  chan struct{} // holds one token while a slot recycles
	background sync.WaitGroup
	lock       *os.File
	status     *os.File
}

// New checks the configuration, takes the sockets and reads the PIN, for which
// it waits a while if Vault is away. Nothing is started. Close gives up what it took, Run does so too.
func New(c *Config, o Options) (*Supervisor, error) {
	c.fillDefaults()
	if problems := c.Validate(); len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, p := range problems {
			errs[i] = p
		}
		return nil, errors.Join(errs...)
	}
	manifest, err := c.readManifest()
	if err != nil {
		return nil, Problem{"manifest", err.Error()}
	}
	s := &Supervisor{
		c: c, options: o, log: o.Log, manifest: manifest, recycling: make(chan struct{}, 1), started: time.Now(),
		spawn: newSpawn(c, o),
	}
	if err := s.take(); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func newSpawn(c *Config, o Options) spawn {
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	return spawn{binary: o.Binary, env: c.workerEnvironment(), stderr: o.Stderr, log: o.Log}
}

// workerEnvironment is all that a worker gets. A trace of a crash would print
// arguments of functions, so it is off unless the operator wants it.
func (c *Config) workerEnvironment() []string {
	env := []string{}
	for name, value := range c.Environment {
		env = append(env, name+"="+value)
	}
	if _, given := c.Environment["GOTRACEBACK"]; !given {
		env = append(env, "GOTRACEBACK=none")
	}
	sort.Strings(env)
	return env
}

// take makes the directories, locks and sockets.
func (s *Supervisor) take() error {
	if err := makeDir("state_dir", s.c.StateDir, 0o700, 0o022); err != nil {
		return err
	}
	dirMode := os.FileMode(0o700)
	if s.c.socketMode() != 0o600 {
		dirMode = 0o750
	}
	if err := makeDir("socket_dir", s.c.SocketDir, dirMode, 0o027); err != nil {
		return err
	}
	var err error
	if s.lock, err = tryLock(filepath.Join(s.c.StateDir, "supervisor.lock")); err != nil {
		return Problem{"state_dir", fmt.Sprintf("is another supervisor running? %v", err)}
	}
	source, err := s.c.openSource(context.Background(), s.options)
	if err != nil {
		return err
	}
	if s.logins, err = newLogins(s.c, source, s.log); err != nil {
		return err
	}
	for n := range s.c.Workers {
		l, err := listen(s.c.workerSocket(n), s.c.socketMode())
		if err != nil {
			return err
		}
		s.slots = append(s.slots, &slot{s: s, n: n, listener: l, state: stateStarting, asked: make(chan struct{}, 1)})
	}
	if s.status, err = listen(filepath.Join(s.c.SocketDir, SocketName), s.c.socketMode()); err != nil {
		return err
	}
	return nil
}

// Close removes the sockets and forgets the PIN.
func (s *Supervisor) Close() {
	for _, sl := range s.slots {
		_ = os.Remove(sl.listener.Name())
		_ = sl.listener.Close()
	}
	s.slots = nil
	if s.status != nil {
		_ = os.Remove(s.status.Name())
		_ = s.status.Close()
		s.status = nil
	}
	if s.logins != nil {
		s.logins.close()
		s.logins = nil
	}
	if s.lock != nil {
		_ = s.lock.Close()
		s.lock = nil
	}
}

// Run keeps the workers running until ctx ends, then drains them and returns
// nil.
func (s *Supervisor) Run(ctx context.Context) error {
	defer s.Close()
	page, err := newStatusPage(s)
	if err != nil {
		return err
	}
	defer page.close()
	if s.c.Metrics != "" {
		stop, addr, err := s.listenMetrics()
		if err != nil {
			return err
		}
		defer stop()
		s.log.Info("metrics", "listen", addr)
	}
	watch, stopWatch := context.WithCancel(context.Background())
	defer stopWatch()
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		s.logins.watch(watch)
	}()
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		s.logins.keeper.refresh(watch, s.logins.allowed)
	}()
	var slots sync.WaitGroup
	for _, sl := range s.slots {
		slots.Add(1)
		go func() {
			defer slots.Done()
			sl.run(ctx)
		}()
	}
	slots.Wait()
	stopWatch()
	s.background.Wait()
	s.log.Info("supervisor ends")
	return nil
}

// launch starts a worker and brings it to ready: logged in and proved, but
// not accepting yet. It may wait long for its turn to log in.
func (s *Supervisor) launch(ctx context.Context, sl *slot) (*process, error) {
	if stopped, _ := s.logins.state(); stopped != nil {
		return nil, errStopped
	}
	p, err := s.spawn.start(sl.n, sl.listener)
	if err != nil {
		return nil, err
	}
	r, err := s.logins.attempt(ctx, p, s.c.bootstrap(worker.ModeServe, sl.n, s.manifest))
	if err == nil && r.Ready == nil {
		p.kill()
		err = errors.New("worker reported something else than ready")
	}
	if err != nil {
		<-p.exited
		return nil, err
	}
	if len(r.Ready.Unproven) > 0 {
		s.log.Error("active keys could not be proved", "worker", sl.n, "keys", r.Ready.Unproven)
	}
	return p, nil
}

// bootstrap is what a worker is told, without the PIN.
func (c *Config) bootstrap(mode worker.Mode, slot int, manifest []byte) *worker.Bootstrap {
	hash, _ := worker.ParseModuleHash(c.ModuleSHA256) // validated; the zero value is refused
	return &worker.Bootstrap{
		Mode: mode, Slot: slot,
		Module: c.Module, ModuleHash: hash, ModuleArgs: c.ModuleArgs, TokenLabel: c.TokenLabel, TokenSerial: c.TokenSerial,
		ResidentKeys: c.ResidentKeys, Manifest: manifest, AllowedUIDs: []uint32{*c.DaemonUID},
		Guess: worker.GuessPolicy{
			Mismatches: c.GuessLimit.Mismatches,
			Window:     time.Duration(c.GuessLimit.WindowSeconds) * time.Second,
		},
	}
}
