package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// A Migration is one step of the schema.
type Migration struct {
	Version int
	Name    string
	sql     string // for every database
	storage string // for PostgreSQL besides; may be empty
}

const (
	migrationsSuffix = ".sql"
	storageSuffix    = ".postgresql.sql"
)

// migrations are the embedded ones, in order: version n is the n-th.
func migrations(files fs.FS) ([]Migration, error) {
	entries, err := fs.Glob(files, "migrations/*"+migrationsSuffix)
	if err != nil {
		return nil, err
	}
	var all []Migration
	for _, name := range entries { // sorted
		if strings.HasSuffix(name, storageSuffix) {
			continue
		}
		stem := strings.TrimSuffix(path.Base(name), migrationsSuffix)
		number, title, _ := strings.Cut(stem, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != len(all)+1 {
			return nil, fmt.Errorf("migration %q is not number %d", stem, len(all)+1)
		}
		sql, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		storage, err := fs.ReadFile(files, strings.TrimSuffix(name, migrationsSuffix)+storageSuffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all = append(all, Migration{Version: version, Name: title, sql: string(sql), storage: string(storage)})
	}
	return all, nil
}

// Row 0 of the table is the lock: a row lock is what all three databases have.
const (
	makeSchemaTable = `CREATE TABLE IF NOT EXISTS tapseal_schema (
	version bigint NOT NULL PRIMARY KEY, name text NOT NULL, applied timestamptz NOT NULL)`
	makeSchemaLock   = `INSERT INTO tapseal_schema (version, name, applied) VALUES (0, 'lock', now()) ON CONFLICT (version) DO NOTHING`
	lockSchema       = `SELECT version FROM tapseal_schema WHERE version = 0 FOR UPDATE`
	lastSchema       = `SELECT coalesce(max(version), 0) FROM tapseal_schema`
	migrationTimeout = 10 * time.Minute
)

// Pending lists the migrations that Migrate would apply; nothing is changed.
func Pending(ctx context.Context, o Options) ([]Migration, error) {
	return migrating(ctx, o, pending)
}

// Migrate applies what is pending, each in a transaction of its own, and gives
// what it has applied. Several may run at the same time; the schema's owner
// should be another account than the daemons'.
func Migrate(ctx context.Context, o Options) ([]Migration, error) {
	return migrating(ctx, o, func(ctx context.Context, c *conn, all []Migration) ([]Migration, error) {
		if err := prepareSchema(ctx, c); err != nil {
			return nil, err
		}
		var applied []Migration
		for _, m := range all {
			done, err := apply(ctx, c, m, len(all))
			if err != nil {
				return applied, fmt.Errorf("migration %d (%s): %w", m.Version, m.Name, err)
			}
			if done {
				applied = append(applied, m)
			}
		}
		return applied, nil
	})
}

func migrating(ctx context.Context, o Options, f func(context.Context, *conn, []Migration) ([]Migration, error)) ([]Migration, error) {
	o = o.withDefaults()
	o.Timeout = migrationTimeout
	if o.Instance == ([16]byte{}) {
		o.Instance = newHolder() // a migration needs no name
	}
	all, err := migrations(migrationFiles)
	if err != nil {
		return nil, err
	}
	base, err := o.parse()
	if err != nil {
		return nil, err
	}
	c, err := connect(ctx, o, base)
	if err != nil {
		return nil, opening(err)
	}
	defer c.discard()
	done, err := f(ctx, c, all)
	if err != nil {
		return done, fmt.Errorf("migrating the state database: %w", err)
	}
	return done, nil
}

// prepareSchema makes the table of versions. IF NOT EXISTS does not keep two
// from making it at the same moment; the loser finds it made.
func prepareSchema(ctx context.Context, c *conn) error {
	for _, sql := range []string{makeSchemaTable, makeSchemaLock} {
		err := c.exec(ctx, sql)
		if code(err) == uniqueViolation || code(err) == duplicateTable || code(err) == duplicateObject {
			err = c.exec(ctx, sql)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// apply runs one migration unless it was applied meanwhile.
func apply(ctx context.Context, c *conn, m Migration, known int) (done bool, err error) {
	if err := c.exec(ctx, "BEGIN"); err != nil {
		return false, err
	}
	done, err = applyLocked(ctx, c, m, known)
	if err == nil && done {
		return true, c.commit(ctx)
	}
	if undo := c.exec(ctx, "ROLLBACK"); err == nil {
		err = undo
	}
	return false, err
}

func applyLocked(ctx context.Context, c *conn, m Migration, known int) (done bool, err error) {
	if err := c.exec(ctx, lockSchema); err != nil {
		return false, err
	}
	last, err := lastVersion(ctx, c)
	if err != nil {
		return false, err
	}
	if last > known {
		return false, newer(last, known)
	}
	if last >= m.Version {
		return false, nil
	}
	sql := m.sql
	if c.kind == genuine {
		sql += m.storage
	}
	if err := c.exec(ctx, sql); err != nil {
		return false, err
	}
	// The name is a file's of this program.
	return true, c.exec(ctx, fmt.Sprintf("INSERT INTO tapseal_schema (version, name, applied) VALUES (%d, '%s', now())", m.Version, m.Name))
}

func newer(last, known int) error {
	return fmt.Errorf("%w: its schema is version %d, this program knows %d", ErrNewerSchema, last, known)
}

// lastVersion is 0 for an empty database.
func lastVersion(ctx context.Context, c *conn) (int, error) {
	row, err := c.oneRow(ctx, lastSchema)
	if code(err) == undefinedTable {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading the schema's version: %w", err)
	}
	return strconv.Atoi(row[0])
}

func pending(ctx context.Context, c *conn, all []Migration) ([]Migration, error) {
	last, err := lastVersion(ctx, c)
	if err != nil {
		return nil, err
	}
	if last > len(all) {
		return nil, newer(last, len(all))
	}
	return all[last:], nil
}

// checkSchema is for the daemon, which does not migrate.
func checkSchema(ctx context.Context, c *conn) error {
	all, err := migrations(migrationFiles)
	if err != nil {
		return err
	}
	missing, err := pending(ctx, c, all)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%w: %d of %d migrations are missing; apply them first", ErrNotMigrated, len(missing), len(all))
	}
	return nil
}
