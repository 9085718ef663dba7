package cluster

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/state/postgrestest"
)

// First tokens of the tests, so that no two use the same.
const (
	tokensOfDuplicates = 1_000_000
	tokensOfKills      = 2_000_000
	tokensOfSingles    = 3_000_000
)

// TestPostgres is two daemons on one database.
func TestPostgres(t *testing.T) {
	db := StartDatabase(t, false)
	c := Start(t, Options{Bin: bin, Daemons: 2, Database: db})
	t.Run("duplicates", func(t *testing.T) { duplicates(t, c) })
	t.Run("suspended", func(t *testing.T) { suspended(t, c) })
	t.Run("database is away", func(t *testing.T) { databaseAway(t, c, db) })
	t.Run("killed", func(t *testing.T) { killed(t, c, db, tokensOfKills) })
	t.Run("older dump", func(t *testing.T) { olderDump(t, c, db) })
	t.Run("older for the other one", func(t *testing.T) { olderForOne(t, c, db) })
}

// duplicates sends each cryptogram eight times at once, over both daemons.
func duplicates(t *testing.T, c *Cluster) {
	n := size(1_000_000, 2_500, 250)
	o := NewOracle()
	start := time.Now()
	c.Duplicate(o, tokensOfDuplicates, n)
	mustHold(t, o)
	// An acceptance whose answer was lost is told as a repeat.
	if got := o.Counts(); got.Valid > int64(n) || got.Valid < int64(n)-got.Unknown-got.Lost {
		t.Errorf("%d first acceptances of %d cryptograms", got.Valid, n)
	}
	t.Logf("%d cryptograms, each in %d requests, in %v", n, maxFold, time.Since(start))
}

// suspended: what begins after the answer to Suspend, on whichever instance, is
// refused. The order proves it; no clock is asked.
func suspended(t *testing.T, c *Cluster) {
	operator := c.Daemons[0].Administration("operator")
	var longest time.Duration
	for i := range size(200, 10, 3) {
		x := Transaction{Token: tokensOfSingles + i, ATC: 1}
		c.Daemons[1].mustAccept(t, x, "before")
		pan, psn := x.name()
		target := &tapsealv1.Target{What: &tapsealv1.Target_Token{Token: &tapsealv1.TokenName{Pan: pan, Psn: psn}}}
		dry := false
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		_, err := operator.Suspend(ctx, &tapsealv1.SuspendRequest{Target: target, Reason: "stolen", DryRun: &dry})
		longest = max(longest, time.Since(start))
		if err != nil {
			t.Fatal(err)
		}
		x.ATC = 2
		c.Daemons[1].mustRefuse(t, x, "after", tapsealv1.Reason_REASON_TOKEN_SUSPENDED)
		if _, err := operator.Resume(ctx, &tapsealv1.ResumeRequest{Target: target, Reason: "found", DryRun: &dry}); err != nil {
			t.Fatal(err)
		}
		c.Daemons[1].mustAccept(t, x, "resumed")
		cancel()
	}
	t.Logf("longest time from the request to its answer, after which it is in force everywhere: %v", longest)
}

// databaseAway: without its database a daemon knows nothing, and says so; it
// goes on by itself.
func databaseAway(t *testing.T, c *Cluster, db *Database) {
	known := Transaction{Token: tokensOfSingles + 1000, ATC: 1}
	c.Daemons[0].mustAccept(t, known, "known")
	starts := [...]int{c.Daemons[0].process.timesStarted(), c.Daemons[1].process.timesStarted()}
	db.Primary.Kill()
	for round := range 4 {
		for i, d := range c.Daemons {
			fresh := Transaction{Token: tokensOfSingles + 1001 + 2*round + i, ATC: 1}
			for id, x := range map[string]Transaction{"fresh": fresh, "known": known} {
				v, err := d.try(t, x, id)
				if err == nil && v.GetVerdict() != tapsealv1.Verdict_VERDICT_UNKNOWN {
					t.Errorf("%s: %s tap: %v", d.Name, id, v)
				}
				if err == nil && v.GetRetry() != tapsealv1.RetryClass_RETRY_CLASS_BACKOFF {
					t.Errorf("%s: retry class %v", d.Name, v.GetRetry())
				}
			}
		}
	}
	for _, d := range c.Daemons {
		eventually(t, d.Name+" says that it does not serve", func() bool { return !d.Serving() })
	}
	db.Primary.Begin()
	start := time.Now()
	for i, d := range c.Daemons {
		d.Await()
		d.mustAccept(t, known, "known")
		d.mustRefuse(t, known, "other", tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
		if d.process.timesStarted() != starts[i] {
			t.Errorf("%s was started again", d.Name)
		}
	}
	t.Logf("both go on after %v", time.Since(start))
}

// olderDump restores yesterday's dump over today's database.
func olderDump(t *testing.T, c *Cluster, db *Database) {
	dump := filepath.Join(t.TempDir(), "dump")
	save := func() { db.dump(t, dump) }
	restore := func() { db.restore(t, dump) }
	older(t, c.Daemons, tokensOfSingles+2000, func() { stopAll(c) }, save, restore)
}

// olderForOne restores a dump that lacks nothing of one daemon. It starts, and
// stops deciding as soon as the other one has found its own commits missing.
func olderForOne(t *testing.T, c *Cluster, db *Database) {
	busy, idle := c.Daemons[0], c.Daemons[1]
	at := func(atc uint16) Transaction {
		return Transaction{Token: tokensOfSingles + 3000, ATC: atc, Date: time.Now().UTC().Add((14 + 24) * time.Hour)}
	}
	dump := filepath.Join(t.TempDir(), "dump")
	idle.mustAccept(t, at(10), "saved")
	db.dump(t, dump)
	busy.mustAccept(t, at(20), "lost")
	stopAll(c)
	db.restore(t, dump)
	idle.Begin()
	idle.mustAccept(t, at(11), "between") // nobody has found anything yet
	mustNotStart(t, busy)
	if v, err := idle.try(t, at(20), "again"); err != nil || v.GetVerdict() != tapsealv1.Verdict_VERDICT_UNKNOWN || v.GetRetry() != tapsealv1.RetryClass_RETRY_CLASS_OPERATOR {
		t.Errorf("a replay where the other one was told: %v, %v", v, err)
	}
	mustNotStart(t, busy)
	if out, err := busy.Run("state", "accept", "--config", busy.Config, "--floors-raised"); err == nil || !strings.Contains(out, "since they were raised") {
		t.Errorf("with floors of an older loss: %v: %s", err, out)
	}
	if out, err := busy.Run("state", "accept", "--config", busy.Config, "--apply", "--reason", "restored a dump"); err != nil {
		t.Fatalf("accepting: %v: %s", err, out)
	}
	idle.mustRefuse(t, at(20), "again", tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	busy.Begin()
	busy.mustRefuse(t, at(20), "again", tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	idle.mustAccept(t, at(11+2*200+1), "above")
}

func stopAll(c *Cluster) {
	for _, d := range c.Daemons {
		d.Stop()
	}
}

func (d *Database) dump(t *testing.T, file string) {
	t.Helper()
	client(t, d.Primary, "pg_dump", "-Fc", "-d", databaseName, "-f", file)
}

func (d *Database) restore(t *testing.T, file string) {
	t.Helper()
	for _, sql := range []string{"DROP DATABASE tapseal", setUpDatabase[2], setUpDatabase[3], setUpDatabase[4]} {
		d.Primary.Exec("postgres", sql)
	}
	client(t, d.Primary, "pg_restore", "-d", databaseName, file)
}

// client runs a program of PostgreSQL against a server.
func client(t *testing.T, server *postgrestest.Cluster, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(cmd.Environ(), "PGHOST=127.0.0.1", fmt.Sprintf("PGPORT=%d", server.Port),
		"PGUSER="+postgrestest.Superuser, "PGPASSWORD="+postgrestest.Password, "PGSSLMODE=disable")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}
