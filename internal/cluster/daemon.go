package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/config"
)

// A Daemon is one tapseald with its own journal, certificate and ports.
type Daemon struct {
	Name    string
	Address string // of the service
	Admin   string // of the administration listener
	Dir     string // journal, state and configuration
	Config  string // path of the configuration

	c       *Cluster
	inside  []string // what its commands are run through; nil is nothing
	process process
	conn    *grpc.ClientConn
	client  tapsealv1.CryptogramServiceClient
}

func (c *Cluster) newDaemon(i int) *Daemon {
	c.t.Helper()
	d := &Daemon{
		Name: fmt.Sprintf("daemon-%d", i+1), Address: freeAddress(c.t), Admin: freeAddress(c.t), c: c,
	}
	d.Dir = filepath.Join(c.Dir, d.Name)
	d.Config = filepath.Join(d.Dir, "tapseald.yaml")
	for _, dir := range []string{d.Dir, d.Journal(), d.State(), d.Backups()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
	}
	c.certs.server(d.Name)
	d.writeConfig(d.Config, databaseUser)
	if c.o.Database != nil && i == 0 {
		d.migrate()
	}
	d.process = process{name: d.Name, t: c.t, command: func() *exec.Cmd { return d.command("serve", "--config", d.Config) }}
	c.t.Cleanup(func() { d.process.end(syscall.SIGKILL) })
	d.dial()
	return d
}

// Journal is its journal directory.
func (d *Daemon) Journal() string { return filepath.Join(d.Dir, "journal") }

// State is the directory of the embedded engine.
func (d *Daemon) State() string { return filepath.Join(d.Dir, "state") }

// Backups is where the embedded engine is copied to.
func (d *Daemon) Backups() string { return filepath.Join(d.Dir, "backups") }

// writeConfig writes a configuration for a user of the database.
func (d *Daemon) writeConfig(path, user string) {
	d.c.t.Helper()
	tls := d.c.certs
	cfg := &config.Daemon{
		Listen:      d.Address,
		TLS:         config.TLS{Certificate: tls.path(d.Name + ".pem"), Key: tls.path(d.Name + "-key.pem"), ClientCA: tls.path("ca.pem")},
		Policy:      filepath.Join(d.c.Dir, "policy.yaml"),
		Admin:       config.Listener{Listen: d.Admin, ClientCA: tls.path("ca.pem")},
		Assignments: filepath.Join(d.c.Dir, "assignments.yaml"),
		HSM:         config.HSM{SocketDir: d.c.HSM.layout.Run()},
		Journal:     config.Journal{Dir: d.Journal()},

		DefaultTimeoutMS: d.c.o.TimeoutMS,
	}
	if db := d.c.o.Database; db != nil {
		cfg.State.Postgres = db.config(user)
	} else {
		cfg.State.Dir, cfg.State.Backups = d.State(), d.Backups()
	}
	cfg.Complete()
	data, err := cfg.Marshal()
	if err != nil {
		d.c.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		d.c.t.Fatal(err)
	}
}

// migrate makes the schema, as its owner.
func (d *Daemon) migrate() {
	d.c.t.Helper()
	owner := filepath.Join(d.Dir, "owner.yaml")
	d.writeConfig(owner, databaseOwner)
	if out, err := d.Run("state", "migrate", "--config", owner, "--apply"); err != nil {
		d.c.t.Fatalf("migrating: %v: %s", err, out)
	}
}

func (d *Daemon) command(args ...string) *exec.Cmd {
	all := append(slices.Clone(d.inside), append([]string{filepath.Join(d.c.o.Bin, "tapseald")}, args...)...)
	return exec.Command(all[0], all[1:]...)
}

// Run runs another command of tapseald and gives what it printed.
func (d *Daemon) Run(args ...string) (string, error) {
	cmd := d.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return "", err
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	err := cmd.Wait()
	return out.String(), err
}

// dial connects lazily, and tries again soon after a daemon was away.
func (d *Daemon) dial() {
	d.c.t.Helper()
	conn, err := d.c.connect("caller", d.Address)
	if err != nil {
		d.c.t.Fatal(err)
	}
	d.conn, d.client = conn, tapsealv1.NewCryptogramServiceClient(conn)
}

func (c *Cluster) connect(who, address string) (*grpc.ClientConn, error) {
	soon := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(credentials.NewTLS(c.certs.config(who))),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: 2 * time.Second}))
	if err != nil {
		return nil, err
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn, nil
}

// Administration is a client of a role: operator or security-officer.
func (d *Daemon) Administration(role string) tapsealv1.AdminServiceClient {
	d.c.t.Helper()
	conn, err := d.c.connect(role, d.Admin)
	if err != nil {
		d.c.t.Fatal(err)
	}
	return tapsealv1.NewAdminServiceClient(conn)
}

// Begin starts the daemon and keeps it running.
func (d *Daemon) Begin() { d.process.begin() }

// Kill ends the daemon at once; it is started again.
func (d *Daemon) Kill() error { return d.process.kill() }

// Stop ends the daemon gracefully, until Begin.
func (d *Daemon) Stop() { d.process.end(syscall.SIGTERM) }

// Serving reports what the health service says.
func (d *Daemon) Serving() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r, err := healthpb.NewHealthClient(d.conn).Check(ctx, &healthpb.HealthCheckRequest{})
	return err == nil && r.GetStatus() == healthpb.HealthCheckResponse_SERVING
}

// Await waits until the daemon serves.
func (d *Daemon) Await() {
	d.c.t.Helper()
	for end := time.Now().Add(patience); !d.Serving(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			d.c.t.Fatalf("%s does not serve:\n%s\n%s", d.Name, d.process.said(), d.c.HSM.supervisor.said())
		}
	}
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
