package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/postgrestest"
)

// An oracle remembers what the engine has told, outside of it.
type oracle struct {
	mu           sync.Mutex
	acknowledged map[int]uint64 // by token: writes that were acknowledged
	unknown      map[int]uint64 // writes with an error that leaves it open
	answers      atomic.Uint64
	failures     atomic.Uint64
}

// load writes with some callers until stop is closed. Each caller has tokens of
// its own, so that a conflict would be a write that nobody asked for.
func (o *oracle) load(t *testing.T, stop chan struct{}, engines ...*Engine) *sync.WaitGroup {
	const callers, rows = 6, 5
	o.acknowledged, o.unknown = map[int]uint64{}, map[int]uint64{}
	var group sync.WaitGroup
	for g := range callers {
		group.Go(func() {
			e := engines[g%len(engines)]
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				b := &state.Batch{}
				for i := range rows {
					b.Rows = append(b.Rows, state.Row{Key: key(g*rows + i)})
				}
				if err := e.Read(t.Context(), b); err != nil {
					o.failed(t, err)
					continue
				}
				for i := range b.Rows {
					b.Rows[i].Next = fmt.Appendf(nil, "%d.%d", g, round)
					b.Rows[i].Adds[0] = state.Add{Key: key(1000), N: 1, Expires: farAway}
				}
				o.note(t, g*rows, b, e.Commit(t.Context(), b))
			}
		})
	}
	return &group
}

func (o *oracle) failed(t *testing.T, err error) {
	if !errors.Is(err, state.ErrUnavailable) {
		t.Error(err)
	}
	o.failures.Add(1)
	time.Sleep(5 * time.Millisecond)
}

func (o *oracle) note(t *testing.T, first int, b *state.Batch, err error) {
	if err != nil {
		o.failed(t, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, r := range b.Rows {
		switch {
		case err != nil:
			o.unknown[first+i]++
			if r.Written {
				t.Error("written after an error")
			}
		case r.Written:
			o.acknowledged[first+i]++
		default:
			t.Error("a conflict that nobody made")
		}
	}
	if err == nil {
		o.answers.Add(1)
	}
}

// more waits for further answers.
func (o *oracle) more(t *testing.T) {
	t.Helper()
	from := o.answers.Load()
	eventually(t, "commits go on", func() bool { return o.answers.Load() > from+20 })
}

// check: nothing acknowledged is lost, nothing is written twice, and counters
// have counted exactly what was written.
func (o *oracle) check(t *testing.T, e *Engine) {
	t.Helper()
	var versions uint64
	for token, acknowledged := range o.acknowledged {
		_, version := get(t, e, key(token))
		versions += version
		if version < acknowledged || version > acknowledged+o.unknown[token] {
			t.Errorf("token %d has version %d after %d acknowledged and %d unknown writes", token, version, acknowledged, o.unknown[token])
		}
	}
	b := &state.Batch{Counters: []state.Counter{{Key: key(1000)}}}
	if read(t, e, b); b.Counters[0].Value != versions {
		t.Errorf("counted %d for %d writes", b.Counters[0].Value, versions)
	}
	t.Logf("%d answers, %d failures, %+v", o.answers.Load(), o.failures.Load(), e.Stats())
}

func TestDatabaseIsKilled(t *testing.T) {
	c := postgrestest.Start(t)
	url := c.URL(migrated(t, c))
	a, b := open(t, Options{Connection: url}), open(t, Options{Connection: url})
	var o oracle
	stop := make(chan struct{})
	group := o.load(t, stop, a, b)
	for range 3 {
		o.more(t)
		c.Kill()
		c.Begin()
	}
	o.more(t)
	c.Stop()
	c.Begin()
	o.more(t)
	close(stop)
	group.Wait()
	o.check(t, a)
}

func TestStandbyIsPromoted(t *testing.T) {
	primary := postgrestest.Start(t)
	database := migrated(t, primary)
	standby := primary.Standby(true)
	if _, err := tryOpen(t, Options{Connection: standby.URL(database)}); !errors.Is(err, state.ErrUnavailable) {
		t.Fatalf("a standby: %v", err)
	}
	url := postgrestest.URL(database, []*postgrestest.Cluster{standby, primary})
	a, b := open(t, Options{Connection: url}), open(t, Options{Connection: url})
	var o oracle
	stop := make(chan struct{})
	group := o.load(t, stop, a, b)
	o.more(t)
	primary.Kill()
	standby.Promote()
	o.more(t)
	close(stop)
	group.Wait()
	o.check(t, a)
}

func TestLostCommitsAreNoticed(t *testing.T) {
	primary := postgrestest.Start(t)
	database := migrated(t, primary)
	standby := primary.Standby(false)
	e := open(t, Options{Connection: postgrestest.URL(database, []*postgrestest.Cluster{primary, standby})})
	put(t, e, key(1), "kept")
	kept := e.acknowledged.Load()
	eventually(t, "the standby has it", func() bool {
		return primary.Value(database, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()") == "1"
	})
	standby.Stop()
	put(t, e, key(1), "lost")
	put(t, e, key(2), "lost")
	b := batch(key(2))
	read(t, e, b)
	b.Rows[0].Next = []byte("never")
	primary.Kill()
	standby.Begin()
	standby.Promote()

	if err := e.Commit(t.Context(), b); !errors.Is(err, state.ErrRegressed) {
		t.Fatalf("commit: %v", err)
	}
	if err := e.Read(t.Context(), b); !errors.Is(err, state.ErrRegressed) {
		t.Fatalf("read: %v", err)
	}
	if n, err := e.Sequence(t.Context()); err != nil || n != kept {
		t.Errorf("the database is at %d, %v, not %d", n, err, kept)
	}
	if err := e.AcceptRegression(t.Context(), kept+2); err != nil {
		t.Fatal(err)
	}
	if record, _ := get(t, e, key(1)); record != "kept" {
		t.Errorf("record %q", record)
	}
	put(t, e, key(2), "new")
	if n, err := e.Sequence(t.Context()); err != nil || n != kept+3 {
		t.Errorf("sequence %d, %v", n, err)
	}
}

// A read alone notices it too: it is what a repeat is answered from.
func TestReadNoticesLostCommits(t *testing.T) {
	e := fresh(t)
	put(t, e, key(1), "x")
	put(t, e, key(1), "y")
	cluster(t).Exec(e.base.Database, "UPDATE tapseal_instance SET sequence = 1")
	if err := e.Read(t.Context(), batch(key(1))); !errors.Is(err, state.ErrRegressed) {
		t.Error(err)
	}
}

func TestCommitsAtAnOlderDatabase(t *testing.T) {
	for name, older := range map[string]string{
		"sequence": "UPDATE tapseal_instance SET sequence = 1",
		"no row":   "DELETE FROM tapseal_instance",
	} {
		t.Run(name, func(t *testing.T) {
			e := fresh(t)
			put(t, e, key(1), "x")
			put(t, e, key(1), "y")
			b := batch(key(1))
			read(t, e, b)
			b.Rows[0].Next = []byte("z")
			cluster(t).Exec(e.base.Database, older)
			for range 2 {
				if err := e.Commit(t.Context(), b); !errors.Is(err, state.ErrRegressed) || b.Rows[0].Written {
					t.Fatal(err)
				}
			}
			if err := e.AcceptRegression(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			if record, version := get(t, e, key(1)); record != "y" || version != 2 {
				t.Errorf("%q, %d", record, version)
			}
			put(t, e, key(1), "z")
		})
	}
}

// A blocker holds a record's lock in a session of its own.
type blocker struct {
	t    *testing.T
	conn *pgconn.PgConn
}

func block(t *testing.T, e *Engine, k state.Key) *blocker {
	t.Helper()
	conn, err := pgconn.Connect(t.Context(), e.o.Connection)
	if err != nil {
		t.Fatal(err)
	}
	b := &blocker{t: t, conn: conn}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	b.exec("BEGIN")
	b.exec(fmt.Sprintf("SELECT 1 FROM tapseal_record WHERE key = '%x' FOR UPDATE", k[:]))
	return b
}

func (b *blocker) exec(sql string) {
	b.t.Helper()
	if _, err := b.conn.Exec(b.t.Context(), sql).ReadAll(); err != nil {
		b.t.Fatal(err)
	}
}

// waiting are the sessions that wait for a lock.
func waiting(t *testing.T, e *Engine) []string {
	t.Helper()
	rows, err := cluster(t).Query(e.base.Database, "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = '"+e.base.Database+"'")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, row := range rows {
		pids = append(pids, row[0])
	}
	return pids
}

// start commits in the background; the commit is under way, behind its guard,
// when start returns.
func start(t *testing.T, e *Engine, b *state.Batch) chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- e.Commit(t.Context(), b) }()
	eventually(t, "the commit waits", func() bool { return len(waiting(t, e)) == 1 })
	return done
}

func TestSetControlWaitsForCommitsUnderWay(t *testing.T) {
	modes(t, func(t *testing.T, e *Engine) {
		put(t, e, key(1), "x")
		other := open(t, Options{Connection: e.o.Connection, Isolation: e.o.Isolation})
		b := batch(key(1))
		read(t, e, b)
		b.Rows[0].Next = []byte("y")
		blocked := block(t, e, key(1))
		committed := start(t, e, b)
		stopped := make(chan error, 1)
		go func() {
			_, err := other.SetControl(t.Context(), state.Control{Document: []byte("stop")})
			stopped <- err
		}()
		eventually(t, "both wait", func() bool { return len(waiting(t, e)) == 2 })
		blocked.exec("ROLLBACK")
		if err := <-committed; err != nil || !b.Rows[0].Written {
			t.Error(err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := e.Commit(t.Context(), b); !errors.Is(err, state.ErrControlChanged) {
			t.Error(err)
		}
	})
}

func TestSessionIsEndedUnderACommit(t *testing.T) {
	modes(t, func(t *testing.T, e *Engine) {
		put(t, e, key(1), "x")
		b := batch(key(1))
		read(t, e, b)
		b.Rows[0].Next = []byte("y")
		blocked := block(t, e, key(1))
		committed := start(t, e, b)
		cluster(t).Exec("postgres", "SELECT pg_terminate_backend("+waiting(t, e)[0]+")")
		eventually(t, "another session waits", func() bool { return e.Stats().Recovered == 1 && len(waiting(t, e)) == 1 })
		blocked.exec("ROLLBACK")
		if err := <-committed; err != nil || !b.Rows[0].Written {
			t.Fatal(err)
		}
		if record, version := get(t, e, key(1)); record != "y" || version != 2 || b.Sequence != 2 {
			t.Errorf("%q, version %d, sequence %d", record, version, b.Sequence)
		}
	})
}

func TestDeadlineUnderACommit(t *testing.T) {
	e := fresh(t)
	put(t, e, key(1), "x")
	b := batch(key(1))
	read(t, e, b)
	b.Rows[0].Next = []byte("y")
	blocked := block(t, e, key(1))
	if err := e.Commit(within(t, 200*time.Millisecond), b); !errors.Is(err, state.ErrUnavailable) || b.Rows[0].Written {
		t.Fatal(err)
	}
	blocked.exec("ROLLBACK")
	for b.Rows[0].Written = false; !b.Rows[0].Written; { // the first one may happen up to this moment
		read(t, e, b)
		b.Rows[0].Next = []byte("z")
		commit(t, e, b)
	}
	if n, err := e.Sequence(t.Context()); err != nil || n != e.acknowledged.Load() {
		t.Errorf("%d, %v", n, err)
	}
}

// A commit whose answer was lost after it had happened has moved the sequence
// on by one; whoever comes next finds that out.
func TestAnswerIsLost(t *testing.T) {
	e := fresh(t)
	put(t, e, key(1), "x")
	b := batch(key(1))
	read(t, e, b)
	b.Rows[0].Next = []byte("y")
	p, err := newPlan(b)
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := e.conns.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := guard{expected: 1, next: 2, epoch: b.Epoch, holder: e.holder}
	if found, err := p.statement(t.Context(), c, e.o.Isolation, e.o.Instance, g); err != nil || !found.held {
		t.Fatal(err)
	}
	e.conns.put(c, errCut) // nobody has seen the answer
	e.doubt = true
	if err := e.Commit(t.Context(), b); err != nil || b.Rows[0].Written {
		t.Fatalf("version 1 was written over again: %v", err)
	}
	if b.Sequence != 3 {
		t.Errorf("sequence %d", b.Sequence)
	}
}

func TestNameIsTakenOver(t *testing.T) {
	older := fresh(t)
	put(t, older, key(1), "x")
	newer := open(t, Options{Connection: older.o.Connection, Instance: older.o.Instance})
	put(t, newer, key(1), "y")
	b := batch(key(1))
	read(t, older, b)
	b.Rows[0].Next = []byte("z")
	if err := older.Commit(t.Context(), b); !errors.Is(err, state.ErrBroken) {
		t.Fatal(err)
	}
	put(t, newer, key(1), "z")
	if newer.acknowledged.Load() != 3 {
		t.Error(newer.acknowledged.Load())
	}
}

// The server answers a commit as done, with a warning, if somebody makes it
// give up waiting for the synchronous standby.
func TestCommitThatIsNotReplicated(t *testing.T) {
	primary := postgrestest.Start(t)
	database := migrated(t, primary)
	standby := primary.Standby(true)
	e := open(t, Options{Connection: primary.URL(database), Timeout: time.Minute})
	put(t, e, key(1), "x")
	b := batch(key(1))
	read(t, e, b)
	b.Rows[0].Next = []byte("y")
	standby.Kill()
	done := make(chan error, 1)
	go func() { done <- e.Commit(t.Context(), b) }()
	const inWait = "FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
	eventually(t, "the commit waits for the standby", func() bool { return primary.Value("postgres", "SELECT count(*) "+inWait) == "1" })
	primary.Exec("postgres", "SELECT pg_cancel_backend(pid) "+inWait)
	if err := <-done; !errors.Is(err, state.ErrUnavailable) || b.Rows[0].Written {
		t.Fatalf("acknowledged without the standby: %v", err)
	}
	standby.Begin()
	put(t, e, key(1), "z")
	if _, version := get(t, e, key(1)); version != 3 {
		t.Errorf("version %d", version)
	}
}

func TestClosed(t *testing.T) {
	e := fresh(t)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := e.Read(t.Context(), batch(key(1))); !errors.Is(err, state.ErrUnavailable) {
		t.Error(err)
	}
	eventually(t, "no session is left", func() bool { return len(cluster(t).Sessions(e.base.Database)) == 0 })
}

func TestSweep(t *testing.T) {
	c := cluster(t)
	e := open(t, Options{Connection: c.URL(migrated(t, c)), Sweep: 10 * time.Millisecond})
	c.Exec(e.base.Database, "INSERT INTO tapseal_counter SELECT gen_random_uuid(), 1, CASE WHEN i % 4 = 0 THEN "+
		strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)+" ELSE 1000 END FROM generate_series(1, 4000) AS s(i)")
	eventually(t, "expired counters are gone", func() bool {
		return c.Value(e.base.Database, "SELECT count(*) FROM tapseal_counter") == "1000"
	})
	if n := e.Stats().Swept; n != 3000 {
		t.Errorf("swept %d", n)
	}
}

func TestTooLarge(t *testing.T) {
	e := fresh(t)
	b := batch(key(1))
	read(t, e, b)
	for _, next := range []string{"", strings.Repeat("x", state.MaxRecordBytes+1)} {
		b.Rows[0].Next = []byte(next)
		if err := e.Commit(t.Context(), b); err == nil {
			t.Errorf("%d bytes were taken", len(next))
		}
	}
	b.Rows[0].Next = make([]byte, state.MaxRecordBytes)
	commit(t, e, b)
	b = &state.Batch{Rows: make([]state.Row, state.MaxBatchRows)}
	for i := range b.Rows {
		b.Rows[i].Key = key(10 + i)
	}
	read(t, e, b)
	for i := range b.Rows {
		b.Rows[i].Next = make([]byte, state.MaxRecordBytes)
		b.Rows[i].Adds[0] = state.Add{Key: key(5000 + i), N: 1, Expires: farAway}
		b.Rows[i].Adds[1] = state.Add{Key: key(9000), N: 1, Expires: farAway}
	}
	commit(t, e, b)
	for i := range b.Rows {
		if !b.Rows[i].Written {
			t.Fatal("not written")
		}
	}
	b.Rows = append(b.Rows, state.Row{Key: key(9999), Next: []byte("x")})
	if err := e.Commit(t.Context(), b); err == nil {
		t.Error("a batch that is too long was taken")
	}
	if _, err := e.SetControl(t.Context(), state.Control{Document: make([]byte, state.MaxControlDoc)}); err != nil {
		t.Error(err)
	}
	if _, err := e.SetControl(t.Context(), state.Control{Epoch: 1, Document: make([]byte, state.MaxControlDoc+1)}); err == nil {
		t.Error("a document that is too long was taken")
	}
}

// A daemon that registers slowly while the control document changes must not
// commit by the old one.
func TestRegisterBesideSetControl(t *testing.T) {
	for _, isolation := range []Isolation{Serializable, ReadCommitted} {
		t.Run(string(isolation), func(t *testing.T) {
			c := cluster(t)
			e := open(t, Options{Connection: c.URL(migrated(t, c)), Isolation: isolation})
			c.Exec(e.base.Database, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$;
				CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON tapseal_instance DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()`)
			opened := make(chan *Engine, 1)
			go func() {
				n, err := tryOpen(t, Options{Connection: e.o.Connection, Isolation: isolation})
				if err != nil {
					t.Error(err)
				}
				opened <- n
			}()
			eventually(t, "it registers", func() bool {
				return c.Value(e.base.Database, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'") == "1"
			})
			epoch, err := e.SetControl(t.Context(), state.Control{Document: []byte("stop")})
			if err != nil {
				t.Fatal(err)
			}
			n := <-opened
			if n == nil {
				t.FailNow()
			}
			b := batch(key(1))
			read(t, n, b)
			if b.Epoch != epoch {
				t.Errorf("it reads epoch %d after SetControl has returned %d", b.Epoch, epoch)
			}
			b.Epoch, b.Rows[0].Next = epoch-1, []byte("x")
			if err := n.Commit(t.Context(), b); !errors.Is(err, state.ErrControlChanged) || b.Rows[0].Written {
				t.Errorf("a commit by the document of before: %v, written %v", err, b.Rows[0].Written)
			}
		})
	}
}

// unused puts a connection on top of the pool that no commit has used.
func unused(t *testing.T, e *Engine) {
	t.Helper()
	used, _, err := e.conns.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	other, fresh, err := e.conns.get(t.Context())
	if err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	e.conns.put(used, nil)
	e.conns.put(other, nil)
}

// A fence that happened although its answer was lost leaves a holder in the row
// that the engine does not know; it fences again.
func TestAnswerToAFenceIsLost(t *testing.T) {
	e := fresh(t)
	put(t, e, key(1), "x")
	c := cluster(t)
	c.Exec(e.base.Database, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		BEGIN PERFORM pg_sleep(1); EXCEPTION WHEN query_canceled THEN NULL; END; RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON tapseal_instance DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (NEW.holder <> OLD.holder) EXECUTE FUNCTION slow()`)
	b := batch(key(1))
	read(t, e, b)
	b.Rows[0].Next = []byte("y")
	e.doubt = true // as after a commit without an answer
	if err := e.Commit(within(t, 300*time.Millisecond), b); !errors.Is(err, state.ErrUnavailable) {
		t.Errorf("within less than the fence takes: %v", err)
	}
	eventually(t, "the fence has happened", func() bool {
		return c.Value(e.base.Database, fmt.Sprintf("SELECT count(*) FROM tapseal_instance WHERE holder <> '%x'", e.holder)) == "1"
	})
	c.Exec(e.base.Database, `DROP TRIGGER slow ON tapseal_instance`)
	put(t, e, key(1), "z")
}

// The process that had a name before never takes it back.
func TestTheOlderProcessDoesNotTakeTheNameBack(t *testing.T) {
	for commits := range 2 {
		older := fresh(t)
		put(t, older, key(1), "x")
		newer := open(t, Options{Connection: older.o.Connection, Instance: older.o.Instance})
		for range commits {
			put(t, newer, key(1), "y")
		}
		unused(t, older)
		b := batch(key(1))
		read(t, older, b)
		b.Rows[0].Next = []byte("z")
		if err := older.Commit(t.Context(), b); !errors.Is(err, state.ErrBroken) {
			t.Errorf("the older one, after %d commits of the newer one: %v", commits, err)
		}
		put(t, newer, key(1), "z")
	}
}

// A primary of before that is alive behind one idle connection loses nothing.
func TestAnIdleConnectionToAnOldPrimary(t *testing.T) {
	primary := postgrestest.Start(t)
	database := migrated(t, primary)
	standby := primary.Standby(false)
	e := open(t, Options{Connection: postgrestest.URL(database, []*postgrestest.Cluster{standby, primary})})
	put(t, e, key(1), "x")
	eventually(t, "the standby has it", func() bool {
		return primary.Value(database, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()") == "1"
	})
	standby.Promote()
	unused(t, e) // the upper one leads to the new primary
	put(t, e, key(1), "y")
	held, _, err := e.conns.get(t.Context()) // somebody else uses it
	if err != nil {
		t.Fatal(err)
	}
	b := batch(key(2))
	b.Rows[0].Next = []byte("z")
	err = e.Commit(t.Context(), b)
	e.conns.put(held, nil)
	if err != nil || !b.Rows[0].Written {
		t.Errorf("no commit is lost: %v", err)
	}
}

// What goes wrong when the transaction is committed, after the rows have come,
// is told as it is.
func TestErrorsWhileCommitting(t *testing.T) {
	modes(t, func(t *testing.T, e *Engine) {
		put(t, e, key(1), "x")
		cluster(t).Exec(e.base.Database, "CREATE SEQUENCE tries")
		version := uint64(1)
		for _, c := range []struct {
			name, at string
			want     error
			written  bool // also where nobody says so
		}{
			{"error", "RAISE EXCEPTION 'no';", state.ErrUnavailable, false},
			{"taken back", "IF nextval('tries') < 4 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF;", nil, true},
			{"warning", "RAISE WARNING 'late';", errNotReplicated, true},
			{"nothing", "", nil, true},
			{"session ended", "PERFORM pg_terminate_backend(pg_backend_pid());", state.ErrUnavailable, false},
			{"nothing again", "", nil, true},
		} {
			cluster(t).Exec(e.base.Database, `CREATE OR REPLACE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN `+c.at+` RETURN NULL; END $$;
				DROP TRIGGER IF EXISTS late ON tapseal_record;
				CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON tapseal_record DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()`)
			b := batch(key(1))
			read(t, e, b)
			b.Rows[0].Next = []byte("y")
			err := e.Commit(within(t, 10*time.Second), b)
			if !errors.Is(err, c.want) || b.Rows[0].Written != (c.written && c.want == nil) {
				t.Errorf("%s: %v, written %v", c.name, err, b.Rows[0].Written)
			}
			if c.written {
				version++
			}
			if _, v := get(t, e, key(1)); v != version {
				t.Errorf("%s: version %d, want %d", c.name, v, version)
			}
		}
		if n, err := e.Sequence(t.Context()); err != nil || n != e.acknowledged.Load() {
			t.Errorf("the database is at %d, acknowledged are %d: %v", n, e.acknowledged.Load(), err)
		}
	})
}
