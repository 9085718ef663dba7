package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/postgrestest"
)

const (
	bareChange = `UPDATE tapseal_record r SET version = r.version + 1, record = i.next
FROM (SELECT * FROM unnest($1::uuid[], $2::int8[], $3::bytea[]) AS u(key, version, next) ORDER BY key) AS i
WHERE r.key = i.key AND r.version = i.version RETURNING r.key`
	bareRead = `SELECT r.key, r.version, r.record FROM unnest($1::uuid[]) AS k(key) JOIN tapseal_record r ON r.key = k.key`
	bareOne  = `UPDATE tapseal_record SET version = version + 1, record = $3 WHERE key = $1 AND version = $2 RETURNING key`
)

// A rig is one database with n tokens, and everything that is compared on it.
type rig struct {
	b       *testing.B
	cluster *postgrestest.Cluster
	url     string
	tokens  int
	next    int
	record  []byte
	mu      sync.Mutex
}

// BenchmarkAgainstBareLoop compares the engine with the least that a program
// can do: the same transport, READ COMMITTED, no guard, no counters. The
// variants take turns, so that what else the machine does hits all of them. It
// logs records a second and the processor time of client and server for a
// record, and reports the ratios to the bare loop that does the same.
// TAPSEAL_LONG=1 goes up to 10^7 tokens.
func BenchmarkAgainstBareLoop(b *testing.B) {
	sizes := []int{1e3, 1e5, 1e6}
	if os.Getenv("TAPSEAL_LONG") == "1" {
		sizes = append(sizes, 1e7)
	}
	for _, tokens := range sizes {
		b.Run(fmt.Sprintf("tokens=%d", tokens), func(b *testing.B) {
			c := postgrestest.Start(b, "shared_buffers = 512MB", "max_wal_size = 4GB", "max_connections = 100")
			r := &rig{b: b, cluster: c, url: c.URL(migrated(b, c)), tokens: tokens, record: make([]byte, 64)}
			r.fill()
			b.Run("rows=64", func(b *testing.B) { r.compare(b, 64) })
			b.Run("rows=256", func(b *testing.B) { r.compare(b, 256) })
			b.Run("two-instances/rows=64", func(b *testing.B) { r.compareInstances(b, 64) })
			b.Run("one-by-one", r.oneByOne)
			database := pgDatabase(r.url)
			b.Logf("%s; the table has %s",
				c.Value(database, "SELECT round(100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1), 1) || ' % HOT of ' || n_tup_upd FROM pg_stat_user_tables WHERE relname = 'tapseal_record'"),
				c.Value(database, "SELECT pg_size_pretty(pg_table_size('tapseal_record')) || ', its index ' || pg_size_pretty(pg_indexes_size('tapseal_record'))"))
		})
	}
}

// A variant is measured in turns with others.
type variant struct {
	name           string
	f              func() (read time.Duration) // one batch; how long its read took
	read, wall     time.Duration
	client, server time.Duration
}

// turns runs b.N rounds of some batches of each variant.
func (r *rig) turns(b *testing.B, rows int, variants []*variant) {
	const batches = 50
	for _, v := range variants {
		for range 20 {
			v.f() // statements are prepared
		}
	}
	b.ResetTimer()
	for range b.N {
		for _, i := range rand.Perm(len(variants)) { // what one leaves behind the next one meets
			v := variants[i]
			client, server, start := own(), r.cluster.CPU(), time.Now()
			for range batches {
				v.read += v.f()
			}
			v.wall += time.Since(start)
			v.client += own() - client
			v.server += r.cluster.CPU() - server
		}
	}
	b.StopTimer()
	n := time.Duration(b.N * batches * rows)
	for _, v := range variants {
		b.Logf("%-28s %7.0f records/s (write alone %7.0f), for each client %5d ns, server %5d ns", v.name,
			float64(n)/v.wall.Seconds(), float64(n)/(v.wall-v.read).Seconds(), (v.client / n).Nanoseconds(), (v.server / n).Nanoseconds())
	}
	b.ReportMetric(0, "ns/op")
}

func (r *rig) compare(b *testing.B, rows int) {
	bare := &variant{name: "bare, read committed", f: r.bare(b, ReadCommitted, rows)}
	bareSerializable := &variant{name: "bare, serializable", f: r.bare(b, Serializable, rows)}
	committed := &variant{name: "engine, read committed", f: r.engine(b, ReadCommitted, rows, false)}
	serializable := &variant{name: "engine, serializable", f: r.engine(b, Serializable, rows, false)}
	counters := &variant{name: "read committed, 8 counters", f: r.engine(b, ReadCommitted, rows, true)}
	r.turns(b, rows, []*variant{bare, bareSerializable, committed, serializable, counters})
	b.ReportMetric(bare.wall.Seconds()/committed.wall.Seconds(), "committed/bare")
	b.ReportMetric(bareSerializable.wall.Seconds()/serializable.wall.Seconds(), "serializable/bare")
	b.ReportMetric(bare.wall.Seconds()/bareSerializable.wall.Seconds(), "bare-serializable/bare-committed")
}

// compareInstances has two engines that commit at the same time, at both
// levels.
func (r *rig) compareInstances(b *testing.B, rows int) {
	var all []*variant
	for _, isolation := range []Isolation{ReadCommitted, Serializable} {
		first, second := r.engine(b, isolation, rows, false), r.engine(b, isolation, rows, false)
		all = append(all, &variant{name: "two engines, " + string(isolation), f: func() time.Duration {
			var group sync.WaitGroup
			for _, f := range []func() time.Duration{first, second} {
				group.Go(func() {
					for range 5 { // without waiting for the other
						f()
					}
				})
			}
			group.Wait()
			return 0
		}})
	}
	r.turns(b, 10*rows, all)
	b.ReportMetric(all[0].wall.Seconds()/all[1].wall.Seconds(), "serializable/committed")
}

func pgDatabase(url string) string {
	o := Options{Connection: url, Instance: instance()}.withDefaults()
	c, err := o.parse()
	if err != nil {
		return ""
	}
	return c.Database
}

func (r *rig) connect(b *testing.B) *conn {
	b.Helper()
	o := Options{Connection: r.url, Instance: instance(), Timeout: time.Hour}.withDefaults()
	base, err := o.parse()
	if err != nil {
		b.Fatal(err)
	}
	c, err := connect(context.Background(), o, base)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.discard)
	return c
}

func (r *rig) fill() {
	c := r.connect(r.b)
	const insert = `INSERT INTO tapseal_record (key, version, record) SELECT key, 1, $2 FROM unnest($1::uuid[]) AS u(key)`
	const chunk = 10000
	for i := 0; i < r.tokens; i += chunk {
		n := min(chunk, r.tokens-i)
		c.args.reset()
		c.args.array(oidUUID, n)
		for k := range n {
			kk := key(i + k)
			c.args.element(kk[:])
		}
		c.args.end()
		c.args.bytes(r.record)
		if err := c.run(context.Background(), insert, nil); err != nil {
			r.b.Fatal(err)
		}
	}
	r.cluster.Exec(pgDatabase(r.url), "VACUUM ANALYZE")
	r.cluster.Exec(pgDatabase(r.url), "CHECKPOINT")
}

// some are tokens spread over all, each once in a batch.
func (r *rig) some(rows int) []state.Key {
	keys := make([]state.Key, rows)
	stride := max(r.tokens/rows-1, 1) // neighbours of a batch are far apart
	r.mu.Lock()
	start := r.next
	r.next = (r.next + 7919) % r.tokens
	r.mu.Unlock()
	for i := range keys {
		keys[i] = key((start + i*stride) % r.tokens)
	}
	return keys
}

func own() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func (r *rig) bare(b *testing.B, level Isolation, rows int) func() time.Duration {
	c := r.connect(b)
	ctx := context.Background()
	batch := &state.Batch{Rows: make([]state.Row, rows)}
	return func() time.Duration {
		index := make(map[state.Key]*state.Row, rows)
		for i, k := range r.some(rows) {
			batch.Rows[i] = state.Row{Key: k, Next: r.record}
			index[k] = &batch.Rows[i]
		}
		start := time.Now()
		c.args.reset()
		c.args.array(oidUUID, rows)
		for i := range batch.Rows {
			c.args.element(batch.Rows[i].Key[:])
		}
		c.args.end()
		err := c.run(ctx, bareRead, func(v [][]byte) (err error) {
			row := index[state.Key(v[0])]
			row.Record = append([]byte(nil), v[2]...)
			row.Version, err = readInt8(v[1])
			return err
		})
		read := time.Since(start)
		if err != nil {
			b.Fatal(err)
		}
		all := make([]*state.Row, 0, rows)
		for i := range batch.Rows {
			all = append(all, &batch.Rows[i])
		}
		c.args.reset()
		keyArray(&c.args, all)
		c.args.array(oidInt8, rows)
		for _, row := range all {
			c.args.element8(row.Version)
		}
		c.args.end()
		nextArray(&c.args, all)
		n := 0
		if err := c.runAt(ctx, level, bareChange, func(v [][]byte) error { index[state.Key(v[0])].Written = true; n++; return nil }); err != nil {
			b.Fatal(err)
		}
		if n != rows {
			b.Fatalf("%d of %d", n, rows)
		}
		return read
	}
}

// versions are those of all tokens.
func (r *rig) versions(c *conn) map[state.Key]uint64 {
	all := make(map[state.Key]uint64, r.tokens)
	err := c.run(context.Background(), "SELECT key, version FROM tapseal_record", func(v [][]byte) (err error) {
		all[state.Key(v[0])], err = readInt8(v[1])
		return err
	})
	if err != nil {
		r.b.Fatal(err)
	}
	return all
}

func (r *rig) engine(b *testing.B, isolation Isolation, rows int, counters bool) func() time.Duration {
	e := open(b, Options{Connection: r.url, Isolation: isolation, Timeout: time.Hour})
	ctx := context.Background()
	batch := &state.Batch{Rows: make([]state.Row, rows)}
	if counters {
		batch.Counters = make([]state.Counter, 8)
	}
	return func() time.Duration {
		for i, k := range r.some(rows) {
			batch.Rows[i] = state.Row{Key: k, Next: r.record}
			if counters && i < len(batch.Counters) {
				batch.Counters[i].Key = key(-1 - i)
				batch.Rows[i].Adds[0] = state.Add{Key: key(-1 - i), N: 1, Expires: farAway}
			}
		}
		start := time.Now()
		if err := e.Read(ctx, batch); err != nil {
			b.Error(err)
		}
		read := time.Since(start)
		if err := e.Commit(ctx, batch); err != nil {
			b.Error(err)
		}
		return read
	}
}

// oneByOne has 64 callers with a connection each and one row in a statement.
func (r *rig) oneByOne(b *testing.B) {
	const callers, warm = 64, 640
	versions := r.versions(r.connect(b))
	work := make(chan state.Key)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range callers {
		c := r.connect(b)
		group.Go(func() {
			for k := range work {
				mu.Lock()
				version := versions[k]
				versions[k]++
				mu.Unlock()
				c.args.reset()
				c.args.uuid(k)
				c.args.int8(version)
				c.args.bytes(r.record)
				if err := c.run(context.Background(), bareOne, nil); err != nil {
					b.Error(err)
				}
			}
		})
	}
	var client, server time.Duration
	total := warm + 1000*b.N
	for i := range total {
		if i == warm {
			client, server = own(), r.cluster.CPU()
			b.ResetTimer()
		}
		work <- r.some(1)[0]
	}
	close(work)
	group.Wait()
	b.StopTimer()
	n := time.Duration(1000 * b.N)
	b.Logf("one by one: %.0f records/s, for each client %d ns, server %d ns", float64(n)/b.Elapsed().Seconds(),
		((own() - client) / n).Nanoseconds(), ((r.cluster.CPU() - server) / n).Nanoseconds())
	b.ReportMetric(0, "ns/op")
}
