package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/postgrestest"
)

func TestMigrations(t *testing.T) {
	c := cluster(t)
	o := Options{Connection: c.URL(c.Database())}
	if _, err := tryOpen(t, o); !errors.Is(err, ErrNotMigrated) {
		t.Fatal(err)
	}
	names := func(all []Migration, err error) (names []string) {
		if err != nil {
			t.Error(err)
		}
		for _, m := range all {
			names = append(names, m.Name)
		}
		return names
	}
	for range 2 { // listing changes nothing
		if diff := cmp.Diff([]string{"state"}, names(Pending(t.Context(), o))); diff != "" {
			t.Error(diff)
		}
	}
	var applied atomic.Int64
	var group sync.WaitGroup
	for range 5 {
		group.Go(func() { applied.Add(int64(len(names(Migrate(t.Context(), o))))) })
	}
	group.Wait()
	if applied.Load() != 1 {
		t.Errorf("applied %d times", applied.Load())
	}
	if left := names(Pending(t.Context(), o)); len(left) > 0 {
		t.Error(left)
	}
	e := open(t, o)
	put(t, e, key(1), "x")
	c.Exec(e.base.Database, "INSERT INTO tapseal_schema VALUES (99, 'future', now())")
	if _, err := tryOpen(t, o); !errors.Is(err, ErrNewerSchema) {
		t.Error(err)
	}
	if _, err := Migrate(t.Context(), o); !errors.Is(err, ErrNewerSchema) {
		t.Error(err)
	}
	if _, err := Pending(t.Context(), o); !errors.Is(err, ErrNewerSchema) {
		t.Error(err)
	}
}

func TestAFailedMigrationLeavesNothing(t *testing.T) {
	c := cluster(t)
	database := c.Database()
	o := Options{Connection: c.URL(database)}
	_, err := migrating(t.Context(), o, func(ctx context.Context, c *conn, all []Migration) ([]Migration, error) {
		if err := prepareSchema(ctx, c); err != nil {
			return nil, err
		}
		bad := all[0]
		bad.sql += "SELECT nonsense;"
		_, err := apply(ctx, c, bad, len(all))
		return nil, err
	})
	if err == nil {
		t.Fatal("applied")
	}
	if n := c.Value(database, "SELECT count(*) FROM pg_class WHERE relname = 'tapseal_record'"); n != "0" {
		t.Error("a table is left")
	}
	if _, err := Migrate(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func TestMigrationFilesAreNumbered(t *testing.T) {
	for _, name := range []string{"migrations/0002_x.sql", "migrations/x.sql"} {
		if _, err := migrations(fstest.MapFS{name: {}}); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestUnsafeServers(t *testing.T) {
	c := postgrestest.Start(t)
	url := c.URL(migrated(t, c))
	e := open(t, Options{Connection: url})
	for setting, want := range map[string]string{
		"fsync = off":              "fsync",
		"full_page_writes = off":   "full_page_writes",
		"synchronous_commit = off": "synchronous_commit",
		"synchronous_standby_names = 'nobody'\nsynchronous_commit = local": "standbys",
	} {
		c.Set(setting)
		_, err := tryOpen(t, Options{Connection: url})
		if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", setting, err)
		}
		c.Set("fsync = on", "full_page_writes = on", "synchronous_commit = on", "synchronous_standby_names = ''")
	}
	c.Exec("postgres", "ALTER ROLE "+postgrestest.Superuser+" SET synchronous_commit = off")
	if _, err := tryOpen(t, Options{Connection: url}); !errors.Is(err, ErrUnsafe) {
		t.Errorf("for the role: %v", err)
	}
	e.giveUp() // also under an engine that runs
	if err := e.Read(t.Context(), batch(key(1))); !errors.Is(err, state.ErrUnavailable) || !errors.Is(err, ErrUnsafe) {
		t.Error(err)
	}
	for value, want := range map[string]string{"local": "on", "remote_write": "on", "on": "on", "remote_apply": "remote_apply"} {
		c.Exec("postgres", "ALTER ROLE "+postgrestest.Superuser+" SET synchronous_commit = "+value)
		e.giveUp()
		w, _, err := e.conns.get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		row, err := w.oneRow(t.Context(), "SHOW synchronous_commit")
		e.conns.put(w, err)
		if err != nil || row[0] != want {
			t.Errorf("%s became %v, %v", value, row, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	c := cluster(t)
	database := migrated(t, c)
	c.Exec(database, `CREATE ROLE daemons NOLOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON tapseal_record, tapseal_counter, tapseal_instance TO daemons;
		GRANT SELECT, UPDATE ON tapseal_control TO daemons; GRANT SELECT ON tapseal_schema TO daemons;
		CREATE ROLE first LOGIN PASSWORD 'first-password' IN ROLE daemons; CREATE ROLE second LOGIN PASSWORD 'second-password' IN ROLE daemons`)
	var user atomic.Value
	user.Store("nobody")
	o := Options{Connection: c.URL(database), Credentials: func(context.Context) (string, secret.Secret, error) {
		name, _ := user.Load().(string)
		if name == "" {
			return "", secret.Secret{}, errors.New("Vault is away")
		}
		return name, secret.New([]byte(name + "-password")), nil
	}}
	if _, err := tryOpen(t, o); !errors.Is(err, state.ErrUnavailable) || strings.Contains(err.Error(), "-password") {
		t.Fatal(err)
	}
	user.Store("")
	if _, err := tryOpen(t, o); !errors.Is(err, state.ErrUnavailable) {
		t.Fatal(err)
	}
	user.Store("first")
	e := open(t, o)
	put(t, e, key(1), "x")
	if _, err := e.SetControl(t.Context(), state.Control{Document: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	user.Store("second")
	c.Exec(database, "ALTER ROLE first NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'first'")
	put(t, e, key(1), "y") // with the new credentials
	if n := c.Value(database, "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'second'"); n != "t" {
		t.Error("the new credentials are not used")
	}
}

func TestCertificates(t *testing.T) {
	c := postgrestest.Start(t)
	ours, others := postgrestest.NewAuthority(t), postgrestest.NewAuthority(t)
	c.Secure(ours)
	c.Authentication("hostssl certified all 127.0.0.1/32 cert", "hostnossl certified all 127.0.0.1/32 reject")
	c.Exec("postgres", "CREATE DATABASE certified")
	c.Reload()
	certificate, key1 := ours.Files(postgrestest.Superuser)
	strange, key2 := others.Files(postgrestest.Superuser)
	with := func(ca, certificate, key string) Options {
		return Options{Connection: c.URL("certified", "sslmode=verify-full", "sslrootcert="+ca, "sslcert="+certificate, "sslkey="+key)}
	}
	good := with(ours.CAFile, certificate, key1)
	if _, err := Migrate(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	e := open(t, good)
	put(t, e, key(1), "x")
	for name, o := range map[string]Options{
		"the server's authority": with(others.CAFile, certificate, key1),
		"the client's authority": with(ours.CAFile, strange, key2),
		"no certificate":         {Connection: c.URL("certified", "sslmode=verify-full", "sslrootcert="+ours.CAFile)},
		"no encryption":          {Connection: c.URL("certified")},
	} {
		if _, err := tryOpen(t, o); !errors.Is(err, state.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTransport(t *testing.T) {
	for connection, safe := range map[string]bool{
		"postgres://u@192.0.2.1/d":                                      false, // prefer
		"postgres://u@192.0.2.1/d?sslmode=disable":                      false,
		"postgres://u@192.0.2.1/d?sslmode=require":                      false,
		"postgres://u@192.0.2.1/d?sslmode=verify-full":                  true,
		"postgres://u@127.0.0.1,192.0.2.1/d?sslmode=disable":            false,
		"postgres://u@127.0.0.1/d?sslmode=disable":                      true,
		"postgres://u@localhost/d":                                      true,
		"host=/run/postgresql user=u":                                   true,
		"postgres://u@db.example,db2.example/d?sslmode=verify-full":     true,
		"postgres://u@localhost.example/d?sslmode=allow":                false,
		"postgres://u@[::1]/d?sslmode=disable&target_session_attrs=any": true,
	} {
		o := Options{Connection: connection, Instance: instance()}.withDefaults()
		c, err := o.parse()
		if err != nil {
			t.Fatal(err)
		}
		if err := checkTransport(c); (err == nil) != safe || err != nil && !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v", connection, err)
		}
	}
}

func TestOptions(t *testing.T) {
	for name, o := range map[string]Options{
		"no name":   {Connection: "postgres://localhost"},
		"isolation": {Connection: "postgres://localhost", Instance: instance(), Isolation: "chaos"},
		"string":    {Connection: "postgres://u:top-secret@localhost:port", Instance: instance()},
	} {
		_, err := Open(t.Context(), o)
		if err == nil || strings.Contains(err.Error(), "top-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKinds(t *testing.T) {
	for version, want := range map[string]kind{
		"PostgreSQL 15.10 (Debian 15.10-0+deb12u1) on x86_64":                genuine,
		"CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)":    cockroach,
		"PostgreSQL 11.2-YB-2.20.1.3-b0 on x86_64-pc-linux-gnu, compiled by": yugabyte,
		"Something else": plain,
	} {
		if got := kindOf(version); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}
