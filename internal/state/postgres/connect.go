package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// A kind is whose server it is: where they differ, tapseal does without.
type kind int

const (
	plain     kind = iota // unknown, so without anything special
	genuine               // PostgreSQL
	cockroach             // CockroachDB: one statement may change a table once only
	yugabyte              // YugabyteDB: PostgreSQL's planner over another storage
)

func kindOf(version string) kind {
	switch {
	case strings.Contains(version, "CockroachDB"):
		return cockroach
	case strings.Contains(version, "-YB-"):
		return yugabyte
	case strings.HasPrefix(version, "PostgreSQL"):
		return genuine
	}
	return plain
}

// A conn is one connection with its prepared statements.
type conn struct {
	*pgconn.PgConn
	kind       kind
	born       time.Time
	generation int
	statements map[string]*pgconn.StatementDescription
	shapes     map[shape]string
	args       arguments
	warning    string // what the server warned of since it was last cleared
}

// connect makes a connection, with the credentials of the moment, and checks
// the server behind it: after a failover it may be another one.
func connect(ctx context.Context, o Options, base *pgconn.Config) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	config := base.Copy()
	if o.Credentials != nil {
		user, password, err := o.Credentials(ctx)
		if err != nil {
			return nil, fmt.Errorf("getting database credentials: %w", err)
		}
		if user != "" {
			config.User = user
		}
		password.Use(func(b []byte) { config.Password = string(b) })
		password.Wipe()
	}
	config.RuntimeParams["application_name"] = "tapseal"
	config.RuntimeParams["default_transaction_isolation"] = string(ReadCommitted) // a single statement has one snapshot in any case
	config.RuntimeParams["statement_timeout"] = milliseconds(o.Timeout)
	config.RuntimeParams["idle_in_transaction_session_timeout"] = milliseconds(o.Timeout)
	if o.Configure != nil {
		if err := o.Configure(config); err != nil {
			return nil, fmt.Errorf("configuring a database connection: %w", err)
		}
	}
	if err := checkTransport(config); err != nil {
		return nil, err
	}
	c := &conn{born: time.Now(), statements: map[string]*pgconn.StatementDescription{}, shapes: map[shape]string{}}
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		if n.SeverityUnlocalized == "WARNING" {
			c.warning = n.Message
		}
	}
	var err error
	if c.PgConn, err = pgconn.ConnectConfig(ctx, config); err != nil {
		return nil, err
	}
	if err := c.begin(ctx); err != nil {
		c.discard()
		return nil, err
	}
	return c, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// discard closes without waiting for the server.
func (c *conn) discard() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.Close(ctx)
}

// serverSettings are read in one statement. A setting that the server does not
// have is NULL.
const serverSettings = `SELECT version(),
	coalesce(current_setting('fsync', true), ''),
	coalesce(current_setting('full_page_writes', true), ''),
	coalesce(current_setting('synchronous_commit', true), ''),
	coalesce(current_setting('synchronous_standby_names', true), '')`

// begin checks the server's settings and sets those of the session.
func (c *conn) begin(ctx context.Context) error {
	row, err := c.oneRow(ctx, serverSettings)
	if err != nil {
		return fmt.Errorf("reading the server's settings: %w", err)
	}
	c.kind = kindOf(row[0])
	if err := checkSettings(row[1], row[2], row[3], row[4]); err != nil {
		return err
	}
	switch c.kind {
	case genuine:
		return c.exec(ctx, plannerSettings+durability(row[3]))
	case yugabyte:
		return c.exec(ctx, plannerSettings)
	}
	return nil
}

// checkSettings refuses a server that would lose what it acknowledges.
func checkSettings(fsync, fullPageWrites, synchronousCommit, standbys string) error {
	if fsync == "off" {
		return fmt.Errorf("%w: it runs with fsync = off, so that a power failure loses accepted taps", ErrUnsafe)
	}
	if fullPageWrites == "off" {
		return fmt.Errorf("%w: it runs with full_page_writes = off, so that a power failure can damage its tables", ErrUnsafe)
	}
	if synchronousCommit == "off" {
		return fmt.Errorf("%w: it has synchronous_commit = off for this user, so that a crash loses accepted taps", ErrUnsafe)
	}
	if synchronousCommit == "local" && standbys != "" {
		return fmt.Errorf("%w: it names synchronous standbys, but has synchronous_commit = local for this user, which does not wait for them: a failover loses accepted taps", ErrUnsafe)
	}
	return nil
}

// plannerSettings keep the plan that is right at a million rows while the
// tables are still empty: for every key one look into the index. A plan that is
// made for an empty table would stay until the next ANALYZE. The same order of
// locking in all sessions depends on it too.
const plannerSettings = `SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
	SET enable_bitmapscan = off; SET plan_cache_mode = force_generic_plan; SET jit = off;`

// durability is at least on. remote_apply waits for more and is left.
func durability(synchronousCommit string) string {
	if synchronousCommit == "remote_apply" {
		return ""
	}
	return " SET synchronous_commit = on;"
}

// exec runs statements without parameters.
func (c *conn) exec(ctx context.Context, sql string) error {
	_, err := c.Exec(ctx, sql).ReadAll()
	return err
}

// oneRow is the first row of a statement, as text.
func (c *conn) oneRow(ctx context.Context, sql string) ([]string, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 || len(results[0].Rows) == 0 {
		return nil, errors.New("the database answered without a row")
	}
	var row []string
	for _, f := range results[0].Rows[0] {
		row = append(row, string(f))
	}
	return row, nil
}

// run executes a statement, prepared at its first use on this connection, with
// the arguments in c.args, and gives every row of the binary results to row;
// the values are valid until it returns. Only after run has returned nil is the
// transaction of a single statement committed: the server may refuse that after
// it has sent the rows.
func (c *conn) run(ctx context.Context, sql string, row func(values [][]byte) error) error {
	prepared, err := c.prepared(ctx, sql)
	if err != nil {
		return err
	}
	_, err = rows(c.ExecStatement(ctx, prepared, c.args.values(), binaryFormat, binaryFormat), row)
	return err
}

// runAt is run at a level of its own: its transaction is opened and committed in
// the same round trip.
func (c *conn) runAt(ctx context.Context, level Isolation, sql string, row func(values [][]byte) error) error {
	if level == ReadCommitted || level == inTheOpenOne {
		return c.run(ctx, sql, row)
	}
	var batch pgconn.Batch
	for i, text := range []string{level.begin(), sql, "COMMIT"} {
		prepared, err := c.prepared(ctx, text)
		if err != nil {
			return err
		}
		var values [][]byte
		if i == 1 {
			values = c.args.values()
		}
		batch.ExecStatement(prepared, values, binaryFormat, binaryFormat)
	}
	err := c.commitBatch(ctx, &batch, row)
	if err != nil && answered(err) && c.TxStatus() != idle {
		if undo := c.exec(ctx, "ROLLBACK"); undo != nil {
			return undo
		}
	}
	return err
}

// idle is pgconn's name for a connection without a transaction.
const idle = 'I'

// commitBatch runs three statements, of which the second one has rows and the
// third one must have committed.
func (c *conn) commitBatch(ctx context.Context, batch *pgconn.Batch, row func(values [][]byte) error) error {
	results := c.ExecBatch(ctx, batch)
	var tag pgconn.CommandTag
	var bad error
	for i := 0; results.NextResult(); i++ {
		each := row
		if i != 1 {
			each = nil
		}
		var err error
		if tag, err = rows(results.ResultReader(), each); err != nil && bad == nil {
			bad = err
		}
	}
	if err := results.Close(); err != nil {
		return err
	}
	if bad == nil && tag.String() != "COMMIT" {
		bad = errNotCommitted
	}
	return bad
}

// prepared is a statement on this connection.
func (c *conn) prepared(ctx context.Context, sql string) (*pgconn.StatementDescription, error) {
	if s := c.statements[sql]; s != nil {
		return s, nil
	}
	s, err := c.Prepare(ctx, "tapseal_"+strconv.Itoa(len(c.statements)), sql, nil)
	if err != nil {
		return nil, err
	}
	c.statements[sql] = s
	return s, nil
}

// rows reads one result to its end.
func rows(result *pgconn.ResultReader, row func(values [][]byte) error) (pgconn.CommandTag, error) {
	var bad error
	for result.NextRow() {
		if row != nil && bad == nil {
			bad = row(result.Values())
		}
	}
	tag, err := result.Close()
	if err != nil {
		return tag, err
	}
	return tag, bad
}
