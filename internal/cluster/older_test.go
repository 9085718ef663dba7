package cluster

import (
	"strings"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// older saves the state while it is in use, goes on, and puts the saved one back. Daemons refuse
// to start on it until an operator accepts it with raised floors: under them
// nothing is accepted, above them everything goes on.
func older(t *testing.T, daemons []*Daemon, token int, stop, save, restore func()) {
	d := daemons[0]
	at := func(n int, atc uint16) Transaction { return Transaction{Token: token + n, ATC: atc} }
	for i, d := range daemons {
		d.mustAccept(t, at(0, uint16(10+i)), "saved")
	}
	save()
	stop()
	for i, d := range daemons {
		d.Begin()
		d.mustAccept(t, at(0, uint16(20+i)), "lost")
		d.mustAccept(t, at(1+i, 1), "unknown")
	}
	stop()
	restore()
	for _, d := range daemons {
		mustNotStart(t, d)
	}
	accept(t, daemons)
	for _, d := range daemons {
		d.Begin()
	}
	under := tapsealv1.Reason_REASON_ATC_UNDER_FLOOR
	for i, d := range daemons {
		d.mustRefuse(t, at(0, uint16(20+i)), "again", under)
		d.mustRefuse(t, at(0, uint16(30+i)), "under", under)
		d.mustRefuse(t, at(1+i, 1), "again", under)
	}
	d.mustAccept(t, at(0, uint16(10+len(daemons)-1)+200+1), "above")
	later := at(1, 2)
	later.Date = time.Now().UTC().Add((14 + 24) * time.Hour)
	d.mustAccept(t, later, "later")
}

func mustNotStart(t *testing.T, d *Daemon) {
	t.Helper()
	out, err := d.Run("serve", "--config", d.Config)
	if err == nil || !strings.Contains(out, "older than the journal") || !strings.Contains(out, "tapseald state accept") {
		t.Errorf("%s on an older state: %v: %s", d.Name, err, out)
	}
	if out, err := d.Run("state", "show", "--config", d.Config); err != nil || !strings.Contains(out, "OLDER") {
		t.Errorf("show: %v: %s", err, out)
	}
}

// accept does it dry first, which changes nothing. Daemons of one database raise
// the floors once.
func accept(t *testing.T, daemons []*Daemon) {
	t.Helper()
	if out, err := daemons[0].Run("state", "accept", "--config", daemons[0].Config, "--floors-raised"); err == nil || !strings.Contains(out, "--floors-raised: ") {
		t.Errorf("the first with floors that nobody raised: %v: %s", err, out)
	}
	for i, d := range daemons {
		args := []string{"state", "accept", "--config", d.Config}
		if i > 0 {
			args = append(args, "--floors-raised")
		}
		if out, err := d.Run(args...); err != nil || !strings.Contains(out, "nothing was changed") {
			t.Errorf("dry: %v: %s", err, out)
		}
		mustNotStart(t, d)
		if out, err := d.Run(append(args, "--apply")...); err == nil || !strings.Contains(out, "--reason") {
			t.Errorf("without a reason: %v: %s", err, out)
		}
		out, err := d.Run(append(args, "--apply", "--reason", "restored yesterday's backup")...)
		if err != nil || !strings.Contains(out, "generation  1") {
			t.Fatalf("accepting: %v: %s", err, out)
		}
		if out, err := d.Run(append(args, "--apply", "--reason", "twice")...); err == nil || !strings.Contains(out, "nothing has to be accepted") {
			t.Errorf("accepting twice: %v: %s", err, out)
		}
	}
}
