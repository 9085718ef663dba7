package secrets

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
)

// A postgres is a cluster of its own in a temporary directory.
type postgres struct {
	t       *testing.T
	bin     string
	port    int
	account *syscall.Credential // not root, which PostgreSQL refuses
}

func startPostgres(t *testing.T) *postgres {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		t.Fatal("PostgreSQL is not installed")
	}
	p := &postgres{t: t, bin: filepath.Dir(found[len(found)-1]), port: freePort(t)}
	dir, err := os.MkdirTemp("", "tapseal-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if os.Geteuid() == 0 {
		p.account = unprivileged(t)
		if err := os.Chown(dir, int(p.account.Uid), int(p.account.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	data, password := filepath.Join(dir, "data"), filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("owner-password"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.run(dir, "initdb", "-D", data, "-U", "owner", "-A", "scram-sha-256", "--pwfile", password, "--no-sync")
	server := p.command(dir, "postgres", "-D", data, "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-k", dir, "-F")
	server.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Signal(syscall.SIGINT); _ = server.Wait() })
	eventually(t, "PostgreSQL answers", func() bool { return p.query("owner", "owner-password") == nil })
	return p
}

func unprivileged(t *testing.T) *syscall.Credential {
	t.Helper()
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Fatal("there is no unprivileged user")
	return nil
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (p *postgres) command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(p.bin, name), args...)
	c.Dir = dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: p.account}
	return c
}

func (p *postgres) run(dir, name string, args ...string) {
	p.t.Helper()
	if out, err := p.command(dir, name, args...).CombinedOutput(); err != nil {
		p.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// query logs in and asks who it is.
func (p *postgres) query(user, password string) error {
	c := p.command(os.TempDir(), "psql", "-h", "127.0.0.1", "-p", strconv.Itoa(p.port), "-U", user, "-d", "postgres", "-Atc", "select current_user")
	c.Env = []string{"PGPASSWORD=" + password, "PGCONNECT_TIMEOUT=2"}
	var out bytes.Buffer
	c.Stdout = &out
	if err := c.Run(); err != nil {
		return err
	}
	if got := strings.TrimSpace(out.String()); got != user {
		return fmt.Errorf("logged in as %q", got)
	}
	return nil
}

func (p *postgres) works(c Credentials) bool {
	var err error
	c.Password.Use(func(b []byte) { err = p.query(c.Username, string(b)) })
	return err == nil
}

func (p *postgres) setup() SetupConfig {
	c := testSetup
	c.Database = &DatabaseSetup{
		URL:      fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", p.port),
		Username: "owner", Password: secret.New([]byte("owner-password")),
	}
	return c
}

// users are the credentials that onChange got.
type users struct {
	mu  sync.Mutex
	all []Credentials
}

func (u *users) add(c Credentials) { u.mu.Lock(); defer u.mu.Unlock(); u.all = append(u.all, c) }

func (u *users) last() (Credentials, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.all) == 0 {
		return Credentials{}, false
	}
	return u.all[len(u.all)-1], true
}

func TestDatabaseCredentials(t *testing.T) {
	pg := startPostgres(t)
	s := startServer(t)
	s.setUp(pg.setup())
	wantAll(t, apply(t, s.admin(), pg.setup(), true), Unchanged)
	config := s.identity("tapseal-daemon")
	log := &lines{}
	clock := newFakeClock()
	v := open(t, config, Options{Log: log.logger(), Clock: clock})
	var seen users
	d, err := v.OpenDatabase(context.Background(), DatabaseConfig{}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	first, err := d.Credentials()
	if err != nil || !pg.works(first) {
		t.Fatalf("the first credentials: %v", err)
	}
	clock.advance(25 * time.Minute) // beyond a third of the hour
	eventually(t, "the lease is renewed", func() bool {
		expires, _ := d.Status()
		return expires.After(first.Expires.Add(10 * time.Minute))
	})
	if _, changed := seen.last(); changed {
		t.Error("a renewal changed the credentials")
	}

	s.must("sys/leases/revoke-prefix/tapseal-database/creds/tapseal-daemon", nil)
	if pg.works(first) {
		t.Error("the control: credentials work after their lease was revoked")
	}
	eventually(t, "new credentials after the lease was taken away", func() bool {
		clock.advance(25 * time.Minute)
		_, ok := seen.last()
		return ok
	})
	second, _ := seen.last()
	if !pg.works(second) || second.Username == first.Username {
		t.Error("the second credentials are no good")
	}
	second.Password.Use(func(b []byte) {
		if strings.Contains(log.String(), string(b)) {
			t.Error("the password is in the log")
		}
	})
	if !strings.Contains(log.String(), second.Username) {
		t.Error("the control: the user is not in the log")
	}
	s.kill()
	clock.advance(2 * time.Hour)
	if _, err := d.Credentials(); err == nil {
		t.Error("credentials that ended are given out")
	}
}

func TestDatabaseCredentialsAreReplacedBeforeTheirLongestLife(t *testing.T) {
	pg := startPostgres(t)
	s := startServer(t)
	s.setUp(pg.setup())
	s.must("tapseal-database/roles/tapseal-daemon", map[string]any{
		"db_name": "tapseal-daemon", "creation_statements": databaseWrites(&DatabaseSetup{}, DefaultNames())[1].Data["creation_statements"],
		"default_ttl": "4s", "max_ttl": "8s",
	})
	v := open(t, s.identity("tapseal-daemon"), Options{})
	var seen users
	d, err := v.OpenDatabase(context.Background(), DatabaseConfig{}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	eventually(t, "other credentials", func() bool {
		now, err := d.Credentials()
		if err != nil || !pg.works(now) {
			t.Fatalf("no good credentials at a moment: %v", err)
		}
		_, ok := seen.last()
		return ok
	})
	fresh, _ := seen.last()
	if !pg.works(fresh) {
		t.Error("the new credentials do not work")
	}
}

// A new login takes the leases of the old token with it.
func TestDatabaseCredentialsAfterANewLogin(t *testing.T) {
	pg := startPostgres(t)
	s := startServer(t)
	s.setUp(pg.setup())
	config := s.identity("tapseal-daemon")
	clock := newFakeClock()
	v := open(t, config, Options{Clock: clock})
	var seen users
	d, err := v.OpenDatabase(context.Background(), DatabaseConfig{}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s.must("auth/token/revoke", map[string]any{"token": readSecret(t, config.TokenFile)})
	s.wrap(config)
	clock.advance(41 * time.Minute)
	eventually(t, "new credentials with the new token", func() bool {
		clock.advance(time.Minute)
		c, ok := seen.last()
		return ok && pg.works(c)
	})
}
