package cluster

import (
	"testing"
	"time"
)

// killed kills one part after the other under load. Whoever is killed comes
// back, and at the end everything that was accepted still is.
func killed(t *testing.T, c *Cluster, db *Database, first int) {
	kills := []func() error{
		func() error { return c.Daemons[0].Kill() },
		c.HSM.KillWorker,
		func() error { return c.Daemons[len(c.Daemons)-1].Kill() },
		c.HSM.KillSupervisor,
	}
	if db != nil {
		kills = append(kills, func() error {
			db.Primary.Kill()
			db.Primary.Begin()
			return nil
		})
	}
	o := NewOracle()
	load := c.StartLoad(o, LoadOptions{Lanes: 4, Wave: 16, Pause: 20 * time.Millisecond, First: first})
	done := 0
	for round := range size(40, 2, 1) * len(kills) {
		before := o.Counts().Valid
		goesOn(t, c, o, round, before+100)
		// Somewhere in the middle of something, each time somewhere else.
		time.Sleep(time.Duration(mix(uint64(round))%50) * time.Millisecond)
		if kills[round%len(kills)]() == nil {
			done++
		}
	}
	for _, d := range c.Daemons {
		d.Await()
	}
	load.Stop()
	again := c.Recheck(o)
	mustHold(t, o)
	t.Logf("%d kills, longest time without an answer %v, %d answers afterwards", done, o.Gap(), again)
	if done < size(40, 2, 1)*len(kills)/2 {
		t.Errorf("%d kills only", done)
	}
}

// goesOn waits until more taps are accepted.
func goesOn(t *testing.T, c *Cluster, o *Oracle, round int, more int64) {
	t.Helper()
	for end := time.Now().Add(patience); o.Counts().Valid < more; time.Sleep(20 * time.Millisecond) {
		if time.Now().Before(end) {
			continue
		}
		t.Logf("tapseal-hsm:\n%s", c.HSM.supervisor.said())
		for _, d := range c.Daemons {
			t.Logf("%s:\n%s", d.Name, d.process.said())
		}
		t.Fatalf("after %d kills nothing was accepted in %v: %+v", round, patience, o.Counts())
	}
}
