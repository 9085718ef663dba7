package cluster

import (
	"fmt"
	"io"
	"testing"
	"text/tabwriter"
	"time"
)

// DrillOptions of Drill.
type DrillOptions struct {
	Bin  string // directory of the three programs
	Out  io.Writer
	Calm time.Duration // of load before the first fault, between two, and after the last
}

// A drill is one run of make cluster.
type drill struct {
	o       DrillOptions
	t       testing.TB
	start   time.Time
	cluster *Cluster
	db      *Database
	oracle  *Oracle
	faults  []fault
}

type fault struct {
	name string
	gap  time.Duration // the longest time without an answer
}

// Drill brings up three daemons on a PostgreSQL with a synchronous standby, and
// breaks one part after the other under load. It reports whether nothing
// acknowledged was lost and nothing was accepted twice.
func Drill(t testing.TB, o DrillOptions) bool {
	t.Helper()
	d := &drill{o: o, t: t, start: time.Now(), oracle: NewOracle()}
	d.say("starting a token, two workers, PostgreSQL with a synchronous standby, three daemons")
	d.db = StartDatabase(t, true)
	d.cluster = Start(t, Options{Bin: o.Bin, Daemons: 3, Database: d.db})
	d.say("three daemons serve")
	load := d.cluster.StartLoad(d.oracle, LoadOptions{Lanes: 4, Wave: 32, Pause: 120 * time.Millisecond})
	d.calm("load")
	for _, f := range d.plan() {
		d.fault(f.name, f.do)
	}
	load.Stop()
	d.say("the load has stopped: asking again for everything that was accepted, at every daemon")
	again := d.cluster.Recheck(d.oracle)
	d.say("%d answers", again)
	return d.report()
}

type act struct {
	name string
	do   func()
}

// plan is what breaks.
func (d *drill) plan() []act {
	c, db := d.cluster, d.db
	return []act{
		{"a daemon is killed and started again", func() {
			if err := c.Daemons[1].Kill(); err != nil {
				d.t.Fatal(err)
			}
			c.Daemons[1].Await()
		}},
		{"a worker is killed, then the supervisor", func() {
			if err := c.HSM.KillWorker(); err != nil {
				d.t.Fatal(err)
			}
			time.Sleep(d.o.Calm / 4)
			if err := c.HSM.KillSupervisor(); err != nil {
				d.t.Fatal(err)
			}
		}},
		{"the database is restarted", func() {
			db.Primary.Stop()
			db.Primary.Begin()
		}},
		{"the primary is killed for good, the standby promoted", func() {
			db.Primary.Kill()
			db.Standby.Promote()
		}},
	}
}

func (d *drill) say(format string, args ...any) {
	fmt.Fprintf(d.o.Out, "%5.1f s  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// calm lets the load run, and begins to measure gaps.
func (d *drill) calm(name string) {
	d.oracle.Gap()
	time.Sleep(d.o.Calm)
	d.faults = append(d.faults, fault{name, d.oracle.Gap()})
}

// fault does harm and waits until all daemons serve again, and then some.
func (d *drill) fault(name string, do func()) {
	d.say("%s", name)
	d.oracle.Gap()
	do()
	for _, daemon := range d.cluster.Daemons {
		daemon.Await()
	}
	time.Sleep(d.o.Calm)
	gap := d.oracle.Gap()
	d.faults = append(d.faults, fault{name, gap})
	d.say("all daemons serve; longest time without an answer %d ms", gap.Milliseconds())
}

// report prints the table.
func (d *drill) report() bool {
	n := d.oracle.Counts()
	some, all := d.oracle.Violations()
	w := tabwriter.NewWriter(d.o.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w)
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"requests", n.Requests},
		{"times sent", n.Attempts},
		{"VALID", n.Valid},
		{"VALID, repeated", n.Repeated},
		{"INVALID, replay refused", n.Replayed},
		{"wrong cryptograms refused", n.Wrong},
		{"UNKNOWN, and asked again", n.Unknown},
		{"no answer, and asked again", n.Lost},
	} {
		fmt.Fprintf(w, "%s\t%d\n", row.name, row.n)
	}
	fmt.Fprintf(w, "\nlongest time without an answer\tms\n")
	for _, f := range d.faults {
		fmt.Fprintf(w, "  %s\t%d\n", f.name, f.gap.Milliseconds())
	}
	fmt.Fprintln(w)
	if all == 0 {
		fmt.Fprintln(w, "nothing acknowledged is lost, no cryptogram was accepted twice")
	}
	for _, v := range some {
		fmt.Fprintln(w, "WRONG:", v)
	}
	if all > len(some) {
		fmt.Fprintf(w, "WRONG: %d more\n", all-len(some))
	}
	_ = w.Flush()
	return all == 0
}
