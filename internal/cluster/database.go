package cluster

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/state/postgrestest"
)

// Names in the database. The owner makes the schema; the daemons only read and
// write it.
const (
	databaseName     = "tapseal"
	databaseOwner    = "tapseal_owner"
	databaseUser     = "tapseal"
	databasePassword = "cluster-password"
)

// setUpDatabase is the set-up of docs/state.md.
var setUpDatabase = [...]string{
	"CREATE ROLE tapseal_owner LOGIN PASSWORD '" + databasePassword + "'",
	"CREATE ROLE tapseal LOGIN PASSWORD '" + databasePassword + "'",
	"CREATE DATABASE tapseal OWNER tapseal_owner",
	"REVOKE ALL ON DATABASE tapseal FROM PUBLIC",
	"GRANT CONNECT ON DATABASE tapseal TO tapseal",
	"ALTER DEFAULT PRIVILEGES FOR ROLE tapseal_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO tapseal",
}

// A Database is a PostgreSQL server, with a synchronous standby or without.
type Database struct {
	Primary *postgrestest.Cluster
	Standby *postgrestest.Cluster // nil is none

	password string // file
}

// StartDatabase starts servers and makes roles and an empty database.
func StartDatabase(t testing.TB, standby bool, settings ...string) *Database {
	t.Helper()
	d := &Database{Primary: postgrestest.Start(t, append([]string{"max_connections = 100"}, settings...)...)}
	for i, sql := range setUpDatabase {
		database := "postgres"
		if i == len(setUpDatabase)-1 {
			database = databaseName // privileges are by database
		}
		d.Primary.Exec(database, sql)
	}
	dir, err := os.MkdirTemp("", "tapseal-db-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d.password = filepath.Join(dir, "password")
	if err := os.WriteFile(d.password, []byte(databasePassword), 0o600); err != nil {
		t.Fatal(err)
	}
	if standby {
		d.Standby = d.Primary.Standby(true)
		d.Standby.Set("wal_retrieve_retry_interval = 500ms") // see docs/state.md
	}
	return d
}

// config is the daemons' part, or the owner's, of the configuration.
func (d *Database) config(user string) config.Postgres {
	hosts := host(d.Primary)
	if d.Standby != nil {
		hosts += "," + host(d.Standby)
	}
	return config.Postgres{
		Connection:   fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", user, hosts, databaseName),
		PasswordFile: d.password,
	}
}

func host(c *postgrestest.Cluster) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port))
}
