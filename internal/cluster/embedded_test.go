package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// TestEmbedded is daemons with the embedded engine, each on its own.
func TestEmbedded(t *testing.T) {
	c := Start(t, Options{Bin: bin})
	next := func(t *testing.T) *Daemon {
		d := c.Add()
		t.Cleanup(d.Stop)
		return d
	}
	t.Run("killed", func(t *testing.T) {
		d := next(t)
		d.Begin()
		killed(t, c.Of(d), nil, 0)
	})
	t.Run("older copy", func(t *testing.T) { olderCopy(t, next(t)) })
	t.Run("disk is full", func(t *testing.T) { diskFull(t, c, next(t)) })
	t.Run("read only", func(t *testing.T) { readOnly(t, next(t)) })
	t.Run("no journal", func(t *testing.T) { noJournal(t, next(t)) })
}

// olderCopy puts a copy of the state back.
func olderCopy(t *testing.T, d *Daemon) {
	d.Begin()
	var copied string
	nights := 0
	save := func() {
		nights++
		name := fmt.Sprintf("night-%d", nights)
		out, err := d.Administration("operator").BackupState(t.Context(), &tapsealv1.BackupStateRequest{Name: name, Reason: "every night"})
		if err != nil {
			t.Fatal(err)
		}
		copied = out.GetPath()
	}
	restore := func() {
		if err := os.RemoveAll(d.State()); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(d.State(), os.DirFS(copied)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d.State(), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	older(t, []*Daemon{d}, tokensOfSingles, d.Stop, save, restore)

	// An act alone makes a state older: without it a stolen card would go on.
	for _, what := range []*tapsealv1.Target{
		{What: &tapsealv1.Target_DeviceId{DeviceId: "stolen-phone"}},
		{What: &tapsealv1.Target_BinRange{BinRange: "999999"}},
	} {
		d.Await()
		save()
		dry := false
		_, err := d.Administration("operator").Suspend(t.Context(), &tapsealv1.SuspendRequest{Target: what, Reason: "stolen", DryRun: &dry})
		if err != nil {
			t.Fatal(err)
		}
		d.Stop()
		restore()
		mustNotStart(t, d)
		out, err := d.Run("state", "accept", "--config", d.Config, "--apply", "--reason", "restored it")
		if err != nil || !strings.Contains(out, `"stolen"`) {
			t.Fatalf("%v: %s", err, out)
		}
		d.Begin()
	}
}

// A disk is a file system of few MiB that a daemon has as its state directory, in
// a mount namespace of its own: that takes no privilege.
type disk struct {
	t   *testing.T
	dir string
	pid int
}

const mountAndStay = `mount -t tmpfs -o size=64m,mode=0700 tmpfs "$1" && echo ready && exec sleep infinity`

func newDisk(t *testing.T, d *Daemon) *disk {
	t.Helper()
	holder := exec.CommandContext(context.Background(), "unshare", "--map-root-user", "--mount", "sh", "-c", mountAndStay, "sh", d.State())
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop()
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("mounting: %v", err)
	}
	disk := &disk{t: t, dir: d.State(), pid: holder.Process.Pid}
	d.inside = disk.enter()
	return disk
}

// enter is what a command is run through to see the disk.
func (d *disk) enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(d.pid), "--user", "--mount", "--preserve-credentials"}
}

// remount changes the options.
func (d *disk) remount(options string) {
	d.t.Helper()
	args := append(d.enter(), "mount", "-o", "remount,bind,"+options, d.dir)
	if out, err := exec.CommandContext(d.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("mounting again: %v: %s", err, out)
	}
}

// path is a file on the disk, seen from outside.
func (d *disk) path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(d.pid), "root", d.dir, name)
}

// diskFull fills the disk under load. There may be no answer then, but none that
// is wrong; with room again the daemon goes on with everything it acknowledged.
func diskFull(t *testing.T, c *Cluster, d *Daemon) {
	disk := newDisk(t, d)
	d.Begin()
	d.Await()
	o := NewOracle()
	load := c.Of(d).StartLoad(o, LoadOptions{Lanes: 4, Wave: 16, Pause: 5 * time.Millisecond, First: tokensOfDuplicates})
	eventually(t, "taps are accepted", func() bool { return o.Counts().Valid > 200 })
	filler := disk.path("filler")
	fill(t, filler)
	eventually(t, "the daemon ends, and its next start too", func() bool { return d.process.timesStarted() > 2 })
	full := o.Counts()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	d.Await()
	eventually(t, "taps are accepted again", func() bool { return o.Counts().Valid > full.Valid+100 })
	load.Stop()
	c.Of(d).Recheck(o)
	mustHold(t, o)
	t.Logf("%d starts", d.process.timesStarted())
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Error(err)
			}
			return
		}
	}
}

// readOnly: a state that cannot be written is none.
func readOnly(t *testing.T, d *Daemon) {
	disk := newDisk(t, d)
	d.Begin()
	x := Transaction{Token: tokensOfSingles + 10, ATC: 1}
	d.mustAccept(t, x, "first")
	d.Stop()
	disk.remount("ro")
	if out, err := d.Run("serve", "--config", d.Config); err == nil || !strings.Contains(out, "state.dir") {
		t.Errorf("on a read-only state: %v: %s", err, out)
	}
	disk.remount("rw")
	d.Begin()
	d.mustAccept(t, x, "first")
	d.mustRefuse(t, x, "second", tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
}

// noJournal: a daemon whose journal is gone does not start, because nobody can
// tell how old its state is.
func noJournal(t *testing.T, d *Daemon) {
	x := Transaction{Token: tokensOfSingles + 11, ATC: 1}
	d.Begin()
	d.mustAccept(t, x, "first")
	d.Stop()
	if err := os.Rename(d.Journal(), d.Journal()+".moved"); err != nil {
		t.Fatal(err)
	}
	if out, err := d.Run("serve", "--config", d.Config); err == nil || !strings.Contains(out, "the journal is empty") {
		t.Fatalf("without its journal: %v: %s", err, out)
	}
	if out, err := d.Run("state", "show", "--config", d.Config); err != nil || !strings.Contains(out, "WITHOUT ITS JOURNAL") {
		t.Errorf("show: %v: %s", err, out)
	}
	if out, err := d.Run("state", "accept", "--config", d.Config, "--apply", "--reason", "the journal is lost"); err != nil {
		t.Fatalf("accepting: %v: %s", err, out)
	}
	d.Begin()
	d.mustAccept(t, x, "first")
	x.ATC = 200
	d.mustRefuse(t, x, "under", tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	x.ATC = 202
	d.mustAccept(t, x, "above")
}
