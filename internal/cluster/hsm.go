package cluster

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/hsm/supervisor"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

// workers is how many worker processes there are.
const workers = 2

// HSM is a SoftHSM token with the demo keys, and the supervisor of its workers.
type HSM struct {
	layout     softhsmconfig.Layout
	supervisor process
	stop       sync.Once
	done       chan struct{}
	kills      atomic.Uint32
}

// startHSM makes the token and starts the supervisor.
func startHSM(t testing.TB, bin, dir string) *HSM {
	t.Helper()
	program := filepath.Join(bin, "tapseal-hsm")
	layout, _, err := softhsmconfig.Prepare(context.Background(), dir, softhsmconfig.Options{HSMBinary: program})
	if err != nil {
		t.Fatal(err)
	}
	setWorkers(t, layout.HSMConfig())
	h := &HSM{layout: layout, done: make(chan struct{})}
	h.supervisor = process{name: "tapseal-hsm", t: t, command: func() *exec.Cmd {
		return exec.Command(program, "supervise", "--config", layout.HSMConfig())
	}}
	go h.heal()
	h.supervisor.begin()
	t.Cleanup(h.end)
	return h
}

func setWorkers(t testing.TB, path string) {
	t.Helper()
	config, err := supervisor.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	config.Workers = workers
	data, err := config.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// heal mends what a worker that was killed in its login leaves of SoftHSM's
// token, as development mode does. A real HSM has no such file.
func (h *HSM) heal() {
	for {
		select {
		case <-h.done:
			return
		case <-time.After(200 * time.Millisecond):
		}
		if softhsmconfig.Suspect(h.layout.Dir) {
			_, _ = softhsmconfig.Heal(h.layout.Dir)
		}
	}
}

func (h *HSM) end() {
	h.stop.Do(func() {
		close(h.done)
		h.supervisor.end(syscall.SIGTERM)
	})
}

// KillSupervisor ends the supervisor at once, and with it its workers; it is
// started again.
func (h *HSM) KillSupervisor() error { return h.supervisor.kill() }

// KillWorker ends one worker at once; the supervisor replaces it.
func (h *HSM) KillWorker() error {
	parent, _ := h.supervisor.now()
	if parent == 0 {
		return errNotStarted
	}
	all := children(parent)
	if len(all) == 0 {
		return errNotStarted
	}
	return syscall.Kill(all[int(h.kills.Add(1))%len(all)], syscall.SIGKILL)
}
