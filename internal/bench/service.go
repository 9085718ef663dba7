package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/clientcontext"
	"github.com/tapseal/tapseal/internal/config"
)

// A service is one running development mode: daemon, supervisor and workers,
// the same code as in production.
type service struct {
	cmd     *exec.Cmd
	out     io.Reader
	conn    *grpc.ClientConn
	client  tapsealv1.CryptogramServiceClient
	metrics string      // host:port
	monitor *tls.Config // of who may read them
	toReady time.Duration
}

// settings are what differs between runs.
type settings struct {
	recycleAfter uint64 // 0: the default
	measure      string // directory for the workers' counters, empty: none
	profiling    bool
}

// prepare makes the development directory by one start and one stop.
func prepare(ctx context.Context, binDir, dir string) error {
	s, err := start(ctx, binDir, dir)
	if err != nil {
		return err
	}
	return s.stop()
}

// configure rewrites both configuration files for the next start.
func configure(dir string, set settings) error {
	path := filepath.Join(dir, "hsm.yaml")
	h, err := supervisor.LoadConfig(path)
	if err != nil {
		return err
	}
	h.Workers, h.RecycleAfter = workers, set.recycleAfter
	delete(h.Environment, measureDirEnv)
	if set.measure != "" {
		h.Environment[measureDirEnv] = set.measure
	}
	data, err := h.Marshal()
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	path = filepath.Join(dir, "tapseald.yaml")
	d, err := config.LoadDaemon(path)
	if err != nil {
		return err
	}
	d.Metrics.ClientCA = d.TLS.ClientCA
	if d.Metrics.Listen, err = freePort(); err != nil {
		return err
	}
	d.Profiling = set.profiling
	if data, err = d.Marshal(); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// start starts development mode and waits until it is ready.
func start(ctx context.Context, binDir, dir string) (*service, error) {
	begun := time.Now()
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "tapseald"), "dev", "--dir", dir, "--listen", "127.0.0.1:0", "--json")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &service{cmd: cmd, out: out}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return nil, errors.Join(errors.New("development mode did not start"), cmd.Wait())
	}
	s.toReady = time.Since(begun)
	return s, s.connect(dir)
}

func (s *service) connect(dir string) error {
	c, err := clientcontext.Load(filepath.Join(dir, clientcontext.FileName))
	if err != nil {
		return err
	}
	own, err := c.TLSConfig()
	if err != nil {
		return err
	}
	if s.conn, err = grpc.NewClient(c.Address, grpc.WithTransportCredentials(credentials.NewTLS(own))); err != nil {
		return err
	}
	s.client = tapsealv1.NewCryptogramServiceClient(s.conn)
	d, err := config.LoadDaemon(filepath.Join(dir, "tapseald.yaml"))
	if err != nil {
		return err
	}
	s.metrics = d.Metrics.Listen
	m, err := clientcontext.Load(filepath.Join(dir, clientcontext.RoleFileName("monitor")))
	if err != nil {
		return err
	}
	s.monitor, err = m.TLSConfig()
	return err
}

func (s *service) pid() int { return s.cmd.Process.Pid }

func (s *service) stop() error {
	if s.conn != nil {
		_ = s.conn.Close()
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, s.out)
	return s.cmd.Wait()
}

// rawLoop runs the same plans in as many processes as there are workers, with
// nothing around the token.
func rawLoop(ctx context.Context, binDir, dir string, taps []byte, d time.Duration) (rate float64, sum counters, err error) {
	h, err := supervisor.LoadConfig(filepath.Join(dir, "hsm.yaml"))
	if err != nil {
		return 0, sum, err
	}
	loops := make([]*rawProcess, workers)
	for i := range loops {
		if loops[i], err = startRaw(ctx, binDir, dir, h.Environment, taps, d); err != nil {
			return 0, sum, err
		}
	}
	for _, l := range loops {
		if err := l.awaitReady(); err != nil {
			return 0, sum, err
		}
	}
	for _, l := range loops {
		if _, err := io.WriteString(l.in, "\n"); err != nil {
			return 0, sum, err
		}
	}
	for _, l := range loops {
		c, err := l.result()
		if err != nil {
			return 0, sum, err
		}
		rate += float64(c.Jobs) / (float64(c.ElapsedNS) / 1e9)
		sum.add(c)
	}
	return rate, sum, nil
}

type rawProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startRaw(ctx context.Context, binDir, dir string, env map[string]string, taps []byte, d time.Duration) (*rawProcess, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, "tapseal-hsm"), "bench",
		"--config", filepath.Join(dir, "hsm.yaml"), "--key-set", keySet, "--length", d.String())
	for k, v := range env {
		if k != measureDirEnv {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
	}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_, err = in.Write(taps)
	return &rawProcess{cmd: cmd, in: in, out: bufio.NewReader(out)}, err
}

func (p *rawProcess) awaitReady() error {
	line, err := p.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "ready" {
		return fmt.Errorf("the bare loop did not start: %w", errors.Join(err, p.cmd.Wait()))
	}
	return nil
}

func (p *rawProcess) result() (c counters, err error) {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return c, fmt.Errorf("the bare loop failed: %w", errors.Join(err, p.cmd.Wait()))
	}
	if err := json.Unmarshal(line, &c); err != nil {
		return c, err
	}
	return c, p.cmd.Wait()
}
