package cluster

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// TestEmbedded is daemons with the embedded engine, each on its own.
func TestEmbedded(t *testing.T) {
	if os.Geteuid() != 0 {
		inNamespace(t)
		return
	}
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

// inNamespace runs the test again where it may mount.
func inNamespace(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--mount", os.Args[0],
		"-test.run=^"+t.Name()+"$", "-test.v", "-test.short="+map[bool]string{true: "true", false: "false"}[testing.Short()])
	cmd.Env = append(os.Environ(), builtIn+"="+bin)
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

// olderCopy puts a copy of the state directory back.
func olderCopy(t *testing.T, d *Daemon) {
	d.Begin()
	copied := filepath.Join(t.TempDir(), "copy")
	save := func() {
		if err := os.CopyFS(copied, os.DirFS(d.State())); err != nil {
			t.Fatal(err)
		}
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
}

// small mounts a file system of few MiB as the daemon's state directory.
func small(t *testing.T, d *Daemon) {
	t.Helper()
	if err := syscall.Mount("tmpfs", d.State(), "tmpfs", 0, "size=64m,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Stop()
		if err := syscall.Unmount(d.State(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// diskFull fills the disk under load. There may be no answer then, but none that
// is wrong; with room again the daemon goes on with everything it acknowledged.
func diskFull(t *testing.T, c *Cluster, d *Daemon) {
	small(t, d)
	d.Begin()
	d.Await()
	o := NewOracle()
	load := c.Of(d).StartLoad(o, LoadOptions{Lanes: 4, Wave: 16, Pause: 5 * time.Millisecond, First: tokensOfDuplicates})
	eventually(t, "taps are accepted", func() bool { return o.Counts().Valid > 200 })
	filler := filepath.Join(d.State(), "filler")
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
	small(t, d)
	d.Begin()
	x := Transaction{Token: tokensOfSingles + 10, ATC: 1}
	d.mustAccept(t, x, "first")
	d.Stop()
	if err := syscall.Mount("", d.State(), "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := d.Run("serve", "--config", d.Config); err == nil || !strings.Contains(out, "state.dir") {
		t.Errorf("on a read-only state: %v: %s", err, out)
	}
	if err := syscall.Mount("", d.State(), "", syscall.MS_REMOUNT, ""); err != nil {
		t.Fatal(err)
	}
	d.Begin()
	d.mustAccept(t, x, "first")
	d.mustRefuse(t, x, "second", tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
}

// noJournal: a daemon whose journal is gone begins a new one. What the state
// remembers holds all the same.
func noJournal(t *testing.T, d *Daemon) {
	x := Transaction{Token: tokensOfSingles + 11, ATC: 1}
	d.Begin()
	d.mustAccept(t, x, "first")
	d.Stop()
	if err := os.Rename(d.Journal(), d.Journal()+".moved"); err != nil {
		t.Fatal(err)
	}
	d.Begin()
	d.mustRefuse(t, x, "second", tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	d.mustAccept(t, x, "first")
	d.Stop()
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
