// Package postgrestest starts real PostgreSQL clusters for tests, in temporary
// directories and as an unprivileged user, from the binaries of Debian's
// package postgresql. It does not touch the cluster that the package starts.
package postgrestest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Superuser and Password are of the account that initdb makes. Over the Unix
// socket it needs no password.
const (
	Superuser = "owner"
	Password  = "owner-password"
)

const patience = 60 * time.Second

// A Cluster is one PostgreSQL server with its data. It ends with the test.
type Cluster struct {
	Port int

	t       testing.TB
	bin     string
	dir     string              // data, socket and certificates
	account *syscall.Credential // nil is the user that the test runs as

	mu     sync.Mutex // guards what follows
	server *exec.Cmd  // nil if it does not run
	exited chan struct{}
	names  int
}

// Start makes a cluster with fsync on and starts it; settings are lines of
// postgresql.conf.
func Start(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c := prepare(t)
	password := filepath.Join(c.dir, "password")
	c.write("password", Password, 0o600)
	c.run("initdb", "-D", c.data(), "-U", Superuser, "--auth-local=trust", "--auth-host=scram-sha-256",
		"--pwfile", password, "--no-sync", "-E", "UTF8", "--locale=C")
	c.Configure(append([]string{
		"fsync = on",
		"shared_buffers = 32MB",
		"max_connections = 60",
		"max_wal_size = 256MB",
		"wal_level = replica",
		"max_wal_senders = 4",
		"hot_standby = on",
		"log_min_messages = warning",
	}, settings...)...)
	c.Begin()
	return c
}

// prepare makes the directory, finds the binaries and the user.
func prepare(t testing.TB) *Cluster {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Fatal("PostgreSQL is not installed: scripts/install-deps --test")
	}
	slices.Sort(found)
	dir, err := os.MkdirTemp("", "tapseal-pg-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{Port: freePort(t), t: t, bin: filepath.Dir(found[len(found)-1]), dir: dir}
	t.Cleanup(func() {
		c.Kill()
		_ = os.RemoveAll(dir)
	})
	if os.Geteuid() == 0 {
		c.account = unprivileged(t)
		c.own(dir)
	}
	return c
}

func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUser := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGroup := strconv.ParseUint(u.Gid, 10, 32)
		if errUser == nil && errGroup == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	t.Fatal("there is no unprivileged user")
	return nil
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	address, _ := l.Addr().(*net.TCPAddr)
	return address.Port
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

// own gives a file to the server's user.
func (c *Cluster) own(path string) {
	c.t.Helper()
	if c.account == nil {
		return
	}
	if err := os.Chown(path, int(c.account.Uid), int(c.account.Gid)); err != nil {
		c.t.Fatal(err)
	}
}

// write makes a file of the server's user in the cluster's directory.
func (c *Cluster) write(name, content string, mode os.FileMode) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		c.t.Fatal(err)
	}
	c.own(path)
}

// Configure adds lines to postgresql.conf; they are in force after Begin or
// Reload.
func (c *Cluster) Configure(lines ...string) { c.add("postgresql.conf", lines) }

// Authentication puts lines before those of pg_hba.conf.
func (c *Cluster) Authentication(lines ...string) {
	c.t.Helper()
	path := filepath.Join(c.data(), "pg_hba.conf")
	old, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.add("pg_hba.conf", append(lines, string(old)))
}

func (c *Cluster) add(name string, lines []string) {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.data(), name), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for _, line := range lines {
		if _, err := fmt.Fprintln(f, line); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.account, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (c *Cluster) run(name string, args ...string) {
	c.t.Helper()
	if out, err := c.command(name, args...).CombinedOutput(); err != nil {
		c.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// Query runs SQL as the superuser over the Unix socket and gives the fields of
// the rows of the last statement as text.
func (c *Cluster) Query(database, sql string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=%s dbname=%s sslmode=disable", c.dir, c.Port, Superuser, database))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	var rows [][]string
	for _, row := range results[len(results)-1].Rows {
		var fields []string
		for _, f := range row {
			fields = append(fields, string(f))
		}
		rows = append(rows, fields)
	}
	return rows, nil
}

// Exec runs SQL as the superuser.
func (c *Cluster) Exec(database, sql string) {
	c.t.Helper()
	if _, err := c.Query(database, sql); err != nil {
		c.t.Fatalf("%s: %v", sql, err)
	}
}

// Value is the first field of the first row.
func (c *Cluster) Value(database, sql string) string {
	c.t.Helper()
	rows, err := c.Query(database, sql)
	if err != nil || len(rows) == 0 {
		c.t.Fatalf("%s: %d rows: %v", sql, len(rows), err)
	}
	return rows[0][0]
}

// Database makes an empty database and returns its name.
func (c *Cluster) Database() string {
	c.t.Helper()
	c.mu.Lock()
	c.names++
	name := fmt.Sprintf("test_%d", c.names)
	c.mu.Unlock()
	c.Exec("postgres", "CREATE DATABASE "+name)
	return name
}

// URL connects the superuser over loopback; parameters are of the query part,
// such as sslmode=verify-full. Without any it is sslmode=disable.
func (c *Cluster) URL(database string, parameters ...string) string {
	return URL(database, []*Cluster{c}, parameters...)
}

// URL names several clusters, of which the client takes the first that it can
// write to.
func URL(database string, clusters []*Cluster, parameters ...string) string {
	hosts := ""
	for i, c := range clusters {
		if i > 0 {
			hosts += ","
		}
		hosts += net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port))
	}
	query := "sslmode=disable"
	for i, p := range parameters {
		if i == 0 {
			query = p
		} else {
			query += "&" + p
		}
	}
	return fmt.Sprintf("postgres://%s:%s@%s/%s?%s", url.PathEscape(Superuser), url.PathEscape(Password), hosts, database, query)
}

// eventually waits for a condition.
func (c *Cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	c.t.Fatalf("not in %v: %s", patience, what)
}
