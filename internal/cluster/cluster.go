// Package cluster brings up the whole service on one machine for tests: a
// SoftHSM token, supervisor and workers, daemons, a PostgreSQL server with a
// synchronous standby, all of them real processes that can be killed. A load
// asks over gRPC and mutual TLS, and an oracle outside of it all keeps its own
// record of what was asked and answered. Nothing but tests and `make cluster`
// imports it.
package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/authz"
)

// patience is what anything gets for coming about.
const patience = 60 * time.Second

// Identities of those who talk to the daemons.
const (
	callerURI   = "spiffe://cluster.test/caller"
	operatorURI = "spiffe://cluster.test/operator"
	officerURI  = "spiffe://cluster.test/security-officer"
)

// Options of Start.
type Options struct {
	Bin     string // directory of the three programs
	Daemons int
	// Database names the engine: PostgreSQL for all daemons, or, if nil, the
	// embedded one, which is for one daemon.
	Database *Database
	// TimeoutMS of the daemons; 0 is 2000, because a test machine may sync its
	// disk more slowly than a terminal waits.
	TimeoutMS int
}

// A Cluster is a token with its workers, and daemons.
type Cluster struct {
	Dir     string
	Daemons []*Daemon
	HSM     *HSM

	t     testing.TB
	o     Options
	certs *authority
}

// Start brings everything up and waits until every daemon serves. It ends with
// the test.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := Prepare(t, o)
	for _, d := range c.Daemons {
		d.Begin()
	}
	for _, d := range c.Daemons {
		d.Await()
	}
	return c
}

// Prepare does everything that Start does but starting the daemons.
func Prepare(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.TimeoutMS == 0 {
		o.TimeoutMS = 2000
	}
	// Short, because of the sockets in it.
	dir, err := os.MkdirTemp("", "tapseal-cluster-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := &Cluster{Dir: dir, t: t, o: o, certs: newAuthority(t, filepath.Join(dir, "tls"))}
	c.HSM = startHSM(t, o.Bin, filepath.Join(dir, "hsm"))
	for _, who := range []struct{ name, uri string }{
		{"caller", callerURI}, {"operator", operatorURI}, {"security-officer", officerURI},
	} {
		c.certs.client(who.name, who.uri)
	}
	policy, err := authz.DevelopmentPolicy(authz.Development{Caller: callerURI, Operator: operatorURI, SecurityOfficer: officerURI})
	if err != nil {
		t.Fatal(err)
	}
	c.write("policy.yaml", policy)
	c.write("assignments.yaml", []byte(assignments))
	for i := range o.Daemons {
		c.Daemons = append(c.Daemons, c.newDaemon(i))
	}
	return c
}

// assignments is the demo issuer with a memory that is long enough for a
// request to be repeated after everything else that the load does with its token,
// and without limits on the wrong cryptograms that it sends on purpose.
const assignments = `assignments:
  - name: visa-demo
    bins: ["41111111111"]
    scheme: visa
    profiles: [visa-cvn10, visa-cvn18, visa-cvn22]
    icc_key_option: A
    keys:
      - {dki: "01", key_set: visa-demo, version: 1}
    replay: {mode: window, remember: 15}
    limits: {caller_failures: 0, bin_failures: 0}
`

// Add makes one more daemon, with a journal and state of its own.
func (c *Cluster) Add() *Daemon {
	c.t.Helper()
	d := c.newDaemon(len(c.Daemons))
	c.Daemons = append(c.Daemons, d)
	return d
}

// Of is the same cluster with some of its daemons only, for a load.
func (c *Cluster) Of(daemons ...*Daemon) *Cluster {
	some := *c
	some.Daemons = daemons
	return &some
}

func (c *Cluster) write(name string, data []byte) {
	c.t.Helper()
	if err := os.WriteFile(filepath.Join(c.Dir, name), data, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not in %v: %s", patience, what)
}

// sleep ends early with ctx.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

var errNotStarted = errors.New("it is not running")
