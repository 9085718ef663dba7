package cluster

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// startAgainAfter is what a service manager waits before it starts a
	// process again.
	startAgainAfter = 100 * time.Millisecond
	// stopWithin is what a process gets for a graceful end.
	stopWithin = 20 * time.Second
)

// A process is kept running: one that ends is started again, as by a service
// manager.
type process struct {
	name    string
	t       testing.TB
	command func() *exec.Cmd

	mu     sync.Mutex // guards what follows
	wanted bool
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended
	rested chan struct{} // closed when nothing is started any more
	starts int
	output bytes.Buffer // the last lines that it printed
}

// begin starts it and keeps it running.
func (p *process) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.wanted {
		return
	}
	p.wanted, p.rested = true, make(chan struct{})
	go p.keep(p.rested)
}

func (p *process) keep(rested chan struct{}) {
	defer close(rested)
	for {
		cmd, ended := p.startOne()
		if cmd == nil {
			return
		}
		_ = cmd.Wait()
		close(ended)
		time.Sleep(startAgainAfter)
	}
}

func (p *process) startOne() (*exec.Cmd, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted {
		return nil, nil
	}
	cmd := p.command()
	cmd.Stderr = tail{p}
	// The kernel sends it when the thread that starts the process ends. Go keeps
	// its threads, so that is when this process does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.wanted = false
		p.t.Errorf("starting %s: %v", p.name, err)
		return nil, nil
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	p.starts++
	return cmd, p.ended
}

// A tail keeps the end of what a process prints.
type tail struct{ p *process }

func (w tail) Write(b []byte) (int, error) {
	const most = 64 << 10
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	w.p.output.Write(b)
	if over := w.p.output.Len() - most; over > 0 {
		w.p.output.Next(over)
	}
	return len(b), nil
}

// said is the end of what it printed.
func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// now is the running process, 0 if there is none.
func (p *process) now() (pid int, ended chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0, nil
	}
	select {
	case <-p.ended:
		return 0, nil
	default:
		return p.cmd.Process.Pid, p.ended
	}
}

func (p *process) timesStarted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starts
}

// kill ends the running process at once; it is started again.
func (p *process) kill() error {
	pid, ended := p.now()
	if pid == 0 {
		return errNotStarted
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	<-ended
	return nil
}

// end ends it for good, by a signal.
func (p *process) end(s syscall.Signal) {
	p.mu.Lock()
	rested := p.rested
	p.wanted = false
	p.mu.Unlock()
	if rested == nil {
		return
	}
	if pid, ended := p.now(); pid != 0 {
		_ = syscall.Kill(pid, s)
		select {
		case <-ended:
		case <-time.After(stopWithin):
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	<-rested
}

// children are the processes that parent has started and that run, by age.
func children(parent int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var found []int
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state ppid …", and the name may hold anything.
		text := string(data)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) || fields[0] == "Z" {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			found = append(found, pid)
		}
	}
	slices.Sort(found)
	return found
}

// Build makes the three programs. Only tapseal-hsm has cgo in it, and it needs
// it also where the tests themselves run without. root is the module's
// directory.
func Build(root, into string) error {
	for program, cgo := range map[string]string{"tapseal": "0", "tapseald": "0", "tapseal-hsm": "1"} {
		cmd := exec.Command("go", "build", "-o", into+"/", "./cmd/"+program)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED="+cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
	}
	return nil
}
