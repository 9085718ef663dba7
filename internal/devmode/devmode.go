// Package devmode is tapseald dev: everything that a developer needs to see a
// tap verified, under one directory and on this machine only. It is made of
// the production parts: the token comes from the admin role of tapseal-hsm,
// the workers from its supervisor, and the daemon is the same code as in
// tapseald serve.
package devmode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/clientcontext"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/phone"
	"github.com/tapseal/tapseal/internal/server"
	"github.com/tapseal/tapseal/internal/shell"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

// DefaultListen is the address that development mode wishes for.
const DefaultListen = "127.0.0.1:7443"

// ErrInUse means that another development mode runs on the directory.
var ErrInUse = errors.New("the directory is in use by another tapseald dev")

// maxSocketPathBytes is what a Unix socket address holds, less the final zero
// byte (unix(7)).
const maxSocketPathBytes = 107

// longestSocket is the longest name in the socket directory: the supervisor
// makes each socket under a name of its own and renames it.
const longestSocket = "worker-255.sock.new"

// readyWithin is how long the first verified canary may take.
const readyWithin = 15 * time.Second

// developerTimeoutMS is the deadline of a request that sets none. A laptop in
// the middle of a build may sync a journal more slowly than a terminal waits.
const developerTimeoutMS = 2000

// maxEarlyEndings of the supervisor before it was ever ready stop the start.
// The first ones may be the fault of a killed predecessor that is still
// letting go of the sockets.
const maxEarlyEndings = 6

// Options of Run.
type Options struct {
	Dir       string
	Listen    string // host:port on loopback; another port if it is busy
	HSMBinary string // path of tapseal-hsm
	Module    string // path of SoftHSM's module; empty: where distributions put it
	Vault     *Vault // where PIN and certificates come from; nil: files
	Version   string
	Ready     func(Ready) // called once, when a canary came back right
}

// Ready says how to reach what runs.
type Ready struct {
	Address string // host:port
	Context string // path of the client context
	Dir     string
	Made    bool   // the token was made by this start
	Vault   string // address; empty: secrets are in files
	Busy    bool   // the wished port was busy
}

// Run brings development mode up and stays until ctx is done; then it drains,
// stops every process that it started, and returns nil.
func Run(ctx context.Context, o Options) error {
	syscall.Umask(0o077) // for this process and all that it starts
	listen, busy, err := pickAddress(ctx, o.Listen)
	if err != nil {
		return err
	}
	if err := softhsmconfig.CheckDir(o.Dir); err != nil {
		return fmt.Errorf("%w (hint: choose another directory)", err)
	}
	unlock, err := lockDir(o.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	d := &dev{Options: o, busy: busy}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	cfg, err := d.files(listen)
	if err != nil {
		return fmt.Errorf("preparing %s: %w", d.layout.Dir, err)
	}
	return d.serve(ctx, cfg)
}

// prepare makes token, identities and certificates, or takes up those there are.
func (d *dev) prepare(ctx context.Context) error {
	if d.Vault == nil {
		return d.prepareFiles(ctx)
	}
	var err error
	if d.layout.Dir, err = filepath.Abs(d.Dir); err != nil {
		return err
	}
	reply, err := setUp(ctx, d.Options)
	if err != nil {
		return err
	}
	d.people, d.made = vaultPeople(reply.Name), reply.Made
	return nil
}

func (d *dev) prepareFiles(ctx context.Context) error {
	var err error
	d.people = people()
	d.layout, d.made, err = softhsmconfig.Prepare(ctx, d.Dir, softhsmconfig.Options{HSMBinary: d.HSMBinary, Module: d.Module})
	if err != nil {
		return err
	}
	if err = ensureCertificates(d.path(tlsDir), time.Now()); err == nil {
		err = ensureDaemonConfig(d.path(daemonFile))
	}
	if err != nil {
		return fmt.Errorf("preparing %s: %w", d.layout.Dir, err)
	}
	return nil
}

// pickAddress checks that the wished address is on loopback and free; a busy
// port becomes port 0, which the kernel replaces by a free one.
func pickAddress(ctx context.Context, wish string) (addr string, busy bool, err error) {
	host, _, err := net.SplitHostPort(wish)
	if err != nil {
		return "", false, errors.New("listen address must be host:port")
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", false, fmt.Errorf("listen address %q is not on loopback: development mode holds published keys and serves this machine only", wish)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", wish)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return net.JoinHostPort(host, "0"), true, nil
	case err != nil:
		return "", false, fmt.Errorf("trying the listen address: %w", err)
	}
	return wish, false, l.Close()
}

// lockDir takes the directory for this process, before anything is known about
// it: a lock on the directory itself leaves no trace in one that is not ours.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s (hint: use it with --context %s, or choose another directory)",
				ErrInUse, dir, shell.Quote(filepath.Join(dir, clientcontext.FileName)))
		}
		return nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return func() { _ = f.Close() }, nil
}

// dev is one running development mode.
type dev struct {
	Options
	layout     softhsmconfig.Layout
	people     authz.Development
	busy, made bool
}

func (d *dev) path(name ...string) string {
	return filepath.Join(append([]string{d.layout.Dir}, name...)...)
}

// setAside makes room for the journal and memory of a new token: those of an
// older one know its tokens under a key that is gone.
func (d *dev) setAside() error {
	old := time.Now().UTC().Format("20060102T150405.000")
	for _, dir := range []string{"journal", "memory"} {
		err := os.Rename(d.path(dir), d.path(dir+"-until-"+old))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// files makes what is the same wherever secrets are: phone, logs and policy.
func (d *dev) files(listen string) (*config.Daemon, error) {
	if socket := filepath.Join(d.layout.Run(), longestSocket); len(socket) > maxSocketPathBytes {
		return nil, fmt.Errorf("the path is too long for sockets by %d characters: choose a shorter one", len(socket)-maxSocketPathBytes)
	}
	if err := ensurePhone(d.path("phone")); err != nil {
		return nil, err
	}
	if d.made {
		if err := d.setAside(); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{"journal", "log", "memory"} {
		if err := os.Mkdir(d.path(dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	if err := ensurePolicy(d.path(policyFile), d.people); err != nil {
		return nil, err
	}
	cfg, err := config.LoadDaemon(d.path(daemonFile))
	if err != nil {
		return nil, err
	}
	cfg.Listen = listen // may be another one at every start
	return cfg, nil
}

func ensurePhone(dir string) error {
	_, err := phone.Open(dir)
	if !errors.Is(err, phone.ErrNoPhone) {
		return err
	}
	cards, err := softhsmconfig.DemoCards()
	if err != nil {
		return err
	}
	return phone.Create(dir, cards)
}

// Names in the directory.
const (
	policyFile = "policy.yaml"
	daemonFile = "tapseald.yaml"
	tlsDir     = "tls"
)

// ensurePolicy writes the policy unless there is one: what a developer changed
// in it stays.
func ensurePolicy(path string, p authz.Development) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := authz.DevelopmentPolicy(p)
	if err != nil {
		return err
	}
	return softhsmconfig.ReplaceFile(path, data, 0o600)
}

// ensureDaemonConfig writes the daemon's configuration unless there is one:
// what a developer changed in it stays.
func ensureDaemonConfig(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	cfg := newDaemonConfig()
	cfg.TLS = config.TLS{
		Certificate: filepath.Join(tlsDir, serverFile),
		Key:         filepath.Join(tlsDir, serverKeyFile),
		ClientCA:    filepath.Join(tlsDir, caFile),
	}
	cfg.Admin.ClientCA = filepath.Join(tlsDir, caFile)
	return writeDaemonConfig(path, cfg)
}

// newDaemonConfig has everything but where certificates come from.
func newDaemonConfig() *config.Daemon {
	return &config.Daemon{
		Listen:      DefaultListen,
		Policy:      policyFile,
		Admin:       config.Listener{Listen: "127.0.0.1:0"},
		Assignments: "assignments.yaml",
		HSM:         config.HSM{SocketDir: "run"},
		Journal:     config.Journal{Dir: "journal"},
		State:       config.State{Dir: "memory"},

		DefaultTimeoutMS: developerTimeoutMS,
	}
}

func writeDaemonConfig(path string, cfg *config.Daemon) error {
	cfg.Complete()
	data, err := cfg.Marshal()
	if err != nil {
		return err
	}
	return softhsmconfig.ReplaceFile(path, data, 0o600)
}

// serve runs supervisor and daemon until ctx is done or one of them cannot go
// on. The daemon drains first, while the workers are still there.
func (d *dev) serve(ctx context.Context, cfg *config.Daemon) error {
	hsmLog, err := openLog(d.path("log", "tapseal-hsm.log"))
	if err != nil {
		return err
	}
	defer func() { _ = hsmLog.Close() }()
	daemonLog, err := openLog(d.path("log", "tapseald.log"))
	if err != nil {
		return err
	}
	defer func() { _ = daemonLog.Close() }()
	log := slog.New(slog.NewJSONHandler(daemonLog, nil))
	defer keepToken(d.layout.Dir, log)()

	daemonCtx, stopDaemon := context.WithCancelCause(ctx)
	defer stopDaemon(nil)
	supervisorCtx, stopSupervisor := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSupervisor()
	serving := make(chan struct{})

	supervisorDone := make(chan error, 1)
	go func() {
		command := supervisorCommand{binary: d.HSMBinary, config: d.layout.HSMConfig(), log: hsmLog, slog: log}
		early := 0
		supervisorDone <- keepSupervisor(supervisorCtx, command, func(ending error) error {
			log.Error("supervisor ended", "error", ending.Error())
			select {
			case <-serving:
				return nil // it has worked before
			default:
			}
			if early++; early < maxEarlyEndings {
				return nil
			}
			err := fmt.Errorf("tapseal-hsm ended before it was ready: %w%s", ending, lastLines(hsmLog.Name()))
			stopDaemon(err)
			return err
		})
	}()
	go func() {
		select {
		case <-serving:
		case <-daemonCtx.Done():
		case <-time.After(readyWithin):
			stopDaemon(fmt.Errorf("not ready after %s%s", readyWithin, lastLines(hsmLog.Name())))
		}
	}()
	err = d.daemon(daemonCtx, cfg, log, func(a *server.Addresses) {
		if err := d.announce(a); err != nil {
			stopDaemon(err)
			return
		}
		close(serving)
	})
	stopSupervisor()
	supervisorErr := <-supervisorDone
	if cause := context.Cause(daemonCtx); cause != nil && ctx.Err() == nil {
		return cause
	}
	return errors.Join(err, supervisorErr)
}

// daemon runs the gRPC service in this process and tells when it is ready.
func (d *dev) daemon(ctx context.Context, cfg *config.Daemon, log *slog.Logger, ready func(*server.Addresses)) error {
	var addresses atomic.Pointer[server.Addresses]
	return server.Run(ctx, *cfg, server.Deps{
		Log:     log,
		Version: d.Version,
		Ready:   func(a server.Addresses) { addresses.Store(&a) },
		Serving: func() { ready(addresses.Load()) },
	})
}

// announce writes the client contexts and then tells who started us.
func (d *dev) announce(at *server.Addresses) error {
	for _, a := range actors(d.people) {
		if err := d.writeContext(a, at); err != nil {
			return fmt.Errorf("writing the client contexts: %w", err)
		}
	}
	ready := Ready{
		Address: at.GRPC.String(), Context: d.path(clientcontext.FileName), Dir: d.layout.Dir, Made: d.made, Busy: d.busy,
	}
	if d.Vault != nil {
		ready.Vault = d.Vault.Address
	}
	d.Ready(ready)
	return nil
}

// writeContext tells the command line where the daemon is, in one step.
func (d *dev) writeContext(a actor, at *server.Addresses) error {
	c := clientcontext.Context{
		Address: at.GRPC.String(),
		TLS: clientcontext.TLS{
			CA:          filepath.Join(tlsDir, caFile),
			Certificate: filepath.Join(tlsDir, a.certificate()),
			Key:         filepath.Join(tlsDir, a.key()),
		},
	}
	name := clientcontext.FileName
	if a.role == "" {
		c.Phone = "phone"
	} else {
		name = clientcontext.RoleFileName(a.role)
		if at.Admin != nil {
			c.Admin = at.Admin.String()
		}
	}
	data, err := c.Marshal()
	if err != nil {
		return err
	}
	return softhsmconfig.ReplaceFile(d.path(name), data, 0o600)
}

// openLog opens a log for appending.
func openLog(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	return f, nil
}

// lastLines is the end of a log, for an error that stops the start.
func lastLines(path string) string {
	const maxBytes, maxLines = 4096, 5
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > maxBytes {
		if _, err := f.Seek(-maxBytes, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(f)
	if err != nil || len(data) == 0 {
		return ""
	}
	lines := slices.Compact(strings.Split(strings.TrimSpace(string(data)), "\n"))
	lines = lines[max(0, len(lines)-maxLines):]
	return "\n  " + strings.Join(lines, "\n  ") + "\n  (" + path + ")"
}
