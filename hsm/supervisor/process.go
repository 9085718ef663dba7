package supervisor

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/hsm/worker"
)

// workerCommand is the subcommand of the binary that is a worker.
const workerCommand = "worker"

// A process is one worker process, from exec to exit.
type process struct {
	slot    int
	pid     int
	started time.Time
	cmd     *exec.Cmd
	control *net.UnixConn
	pipe    *os.File // write end of the bootstrap pipe

	outcome chan worker.Report // the first Ready, Failed or Done
	exited  chan struct{}      // closed when the process is gone and its reports are read
	findKey func(worker.KeyFinding)

	mu     sync.Mutex // guards what follows
	beat   worker.Beat
	beats  uint64
	status string // how it ended
}

// spawn is what a process needs besides its slot.
type spawn struct {
	binary  string
	env     []string
	stderr  *os.File
	log     *slog.Logger
	findKey func(worker.KeyFinding) // for ModeCheck
}

// start executes the worker. It gets nothing but three descriptors and the
// configured environment, and waits for its bootstrap.
func (o *spawn) start(slot int, listener *os.File) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("starting worker %d: %w", slot, err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close() //nolint:errcheck // the worker has its own
	nc, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		return nil, fmt.Errorf("starting worker %d: %w", slot, err)
	}
	control, ok := nc.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("starting worker %d: %w", slot, errors.Join(errors.New("control is no Unix socket"), nc.Close()))
	}
	read, write, err := os.Pipe()
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("starting worker %d: %w", slot, err)
	}
	defer read.Close()                           //nolint:errcheck // the worker has its own
	cmd := exec.Command(o.binary, workerCommand) //nolint:gosec // this program itself
	cmd.Env = o.env
	cmd.Stderr = o.stderr
	cmd.ExtraFiles = []*os.File{read, theirs, listener}
	// A group of its own: a terminal's interrupt is for the supervisor, which
	// drains the workers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{
		slot: slot, started: time.Now(), cmd: cmd, control: control, pipe: write,
		outcome: make(chan worker.Report, 1), exited: make(chan struct{}), findKey: o.findKey,
	}
	if err := cmd.Start(); err != nil {
		_, _ = nc.Close(), write.Close()
		return nil, fmt.Errorf("starting worker %d: %w", slot, err)
	}
	p.pid = cmd.Process.Pid
	go p.watch(o.log)
	return p, nil
}

// watch reads the reports and reaps the process.
func (p *process) watch(log *slog.Logger) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		if err := p.readReports(); err != nil {
			log.Error("a worker does not keep to the protocol: killing it", "worker", p.slot, "pid", p.pid, "error", err)
			p.kill()
		}
	}()
	err := p.cmd.Wait()
	// The last reports are in the socket; nobody else can hold its other end.
	_ = p.control.SetReadDeadline(time.Now().Add(time.Second))
	<-read
	_ = p.control.Close()
	_ = p.pipe.Close()
	p.mu.Lock()
	p.status = "exit status 0"
	if err != nil {
		p.status = err.Error()
	}
	p.mu.Unlock()
	close(p.exited)
}

func (p *process) readReports() error {
	lines := worker.NewLineScanner(p.control)
	for lines.Scan() {
		r, err := worker.ParseReport(lines.Bytes())
		if err != nil {
			return err
		}
		switch {
		case r.Beat != nil:
			p.mu.Lock()
			p.beat = *r.Beat
			p.beats++
			p.mu.Unlock()
		case r.Key != nil:
			if p.findKey == nil {
				return errors.New("unexpected report of a key")
			}
			p.findKey(*r.Key)
		default:
			select {
			case p.outcome <- *r:
			default:
				return errors.New("second report of an outcome")
			}
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.ECONNRESET) {
		return errors.New("report is too long or unreadable")
	}
	return nil
}

// boot hands over the bootstrap and with it the PIN.
func (p *process) boot(b *worker.Bootstrap, limit time.Duration) error {
	defer p.pipe.Close() //nolint:errcheck // an incomplete bootstrap does not parse
	if err := p.pipe.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return fmt.Errorf("handing over the bootstrap: %w", err)
	}
	return worker.WriteBootstrap(p.pipe, b)
}

// order sends an order. A worker that cannot take it is dying, and its exit
// says so.
func (p *process) order(o worker.Order) {
	_ = p.control.SetWriteDeadline(time.Now().Add(time.Second))
	_ = worker.WriteOrder(p.control, o)
}

// kill ends the process at once; C code cannot be asked.
func (p *process) kill() { _ = p.cmd.Process.Kill() }

// lastBeat gives the newest beat and how many there were.
func (p *process) lastBeat() (worker.Beat, uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.beat, p.beats
}

// ended is how the process ended, after exited is closed.
func (p *process) ended() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}
