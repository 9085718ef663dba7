package scratch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Options say which program to start, and on which token.
type Options struct {
	Binary string // path of tapseal-hsm

	// Module is the PKCS#11 module to use, with session objects only; Slot
	// and PINFile belong to it. Empty: a SoftHSM token of its own.
	Module     string
	ModuleArgs string // initialisation string for a module that needs one (NSS softokn)
	Slot       *uint
	PINFile    string

	// OwnNSS makes a token of its own in the NSS softokn module named by
	// Module, in a temporary directory, instead of using a given one.
	OwnNSS bool

	Environ []string      // KEY=value, added to the environment of this process
	Timeout time.Duration // for the start and for each request; 0 is DefaultTimeout
}

// DefaultTimeout bounds the start and each request. It is generous: making a
// token takes a fraction of a second, a plan a fraction of a millisecond.
const DefaultTimeout = 20 * time.Second

// ErrStopped is given for requests after the process ended or was killed.
var ErrStopped = errors.New("scratch process has ended")

// A Client is one scratch process. It may be used by several goroutines; the
// requests run one after the other.
type Client struct {
	mu      sync.Mutex
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	diag    *tail
	dir     string // own token; removed by Close
	timeout time.Duration
	line    []byte
	dead    bool
}

// Start makes a token of its own, or takes the given one, and waits until the
// process has logged in. Ending ctx later does not stop the process: Close does.
func Start(ctx context.Context, o Options) (*Client, error) {
	c := &Client{timeout: o.Timeout, diag: &tail{}}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	setup, environ, err := c.prepare(&o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting scratch token: %w", err), c.removeDir())
	}
	if err := c.launch(ctx, o.Binary, environ, &setup); err != nil {
		return nil, fmt.Errorf("starting scratch token: %w", errors.Join(err, c.Close()))
	}
	return c, nil
}

// prepare decides which token the process will use and makes the directory
// for one of its own.
func (c *Client) prepare(o *Options) (Setup, []string, error) {
	environ := append(os.Environ(), o.Environ...)
	given := o.Slot != nil || o.PINFile != ""
	switch {
	case o.Module != "" && !o.OwnNSS:
		if o.Slot == nil || o.PINFile == "" {
			return Setup{}, nil, errors.New("a module needs a slot and a pin file: its token is never initialised")
		}
		return Setup{Module: o.Module, ModuleArgs: o.ModuleArgs, Slot: o.Slot, PINFile: o.PINFile}, environ, nil
	case given || o.ModuleArgs != "":
		return Setup{}, nil, errors.New("slot, pin file and module arguments belong to a token that is given, not to one of its own")
	}
	var err error
	if c.dir, err = os.MkdirTemp("", DirPrefix); err != nil {
		return Setup{}, nil, err
	}
	if o.OwnNSS {
		return Setup{Module: o.Module, Own: OwnNSS, OwnDir: c.dir}, environ, nil
	}
	module, err := FindSoftHSM()
	if err != nil {
		return Setup{}, nil, err
	}
	conf, err := writeSoftHSMConfig(c.dir)
	if err != nil {
		return Setup{}, nil, err
	}
	environ = append(environ, "SOFTHSM2_CONF="+conf)
	return Setup{Module: module, Own: OwnSoftHSM, OwnDir: c.dir}, environ, nil
}

func (c *Client) launch(ctx context.Context, binary string, environ []string, setup *Setup) error {
	// Not CommandContext: the process must outlive the context of its start.
	cmd := exec.Command(binary, "scratch")
	cmd.Env, cmd.Stderr = environ, c.diag
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	c.cmd, c.in, c.out = cmd, in, bufio.NewReaderSize(out, MaxLineBytes)
	line, err := json.Marshal(setup)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	answer, err := c.exchange(append(line, '\n'))
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	var ready Reply // no steps: only whether the token is there
	return DecodeReply(answer, &ready.Outcome)
}

// Do runs one request. A *RequestError concerns this request only; any other
// error ends the client.
func (c *Client) Do(req Request) (Reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return Reply{}, ErrStopped
	}
	var err error
	if c.line, err = AppendRequest(c.line[:0], &req); err != nil {
		return Reply{}, &RequestError{Text: err.Error()}
	}
	defer clear(c.line)
	answer, err := c.exchange(c.line)
	if err != nil {
		return Reply{}, fmt.Errorf("scratch request: %w", err)
	}
	var r Reply
	if err := DecodeReply(answer, &r.Outcome); err != nil {
		return Reply{}, fmt.Errorf("scratch request: %w", err)
	}
	return r, nil
}

// exchange sends a line and reads one. A process that does not answer in time
// is killed, because a call into a module cannot be cancelled.
func (c *Client) exchange(line []byte) ([]byte, error) {
	timer := time.AfterFunc(c.timeout, func() { _ = c.cmd.Process.Kill() })
	defer timer.Stop()
	_, err := c.in.Write(line)
	var answer []byte
	if err == nil {
		answer, err = c.out.ReadSlice('\n')
	}
	if err == nil {
		return answer, nil
	}
	c.dead = true
	text := c.diag.String()
	if text != "" {
		text = ": " + text
	}
	return nil, fmt.Errorf("%w (%w)%s", ErrStopped, err, text)
}

// Close ends the process and removes a token of its own. It may be called
// more than once.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	if c.cmd != nil && c.cmd.Process != nil {
		_ = c.in.Close() // end of input is the order to end
		timer := time.AfterFunc(c.timeout, func() { _ = c.cmd.Process.Kill() })
		// The exit status says nothing: a token that crashes at its end
		// has answered every request before.
		_ = c.cmd.Wait()
		timer.Stop()
		c.cmd = nil
	}
	return c.removeDir()
}

func (c *Client) removeDir() error {
	if c.dir == "" {
		return nil
	}
	dir := c.dir
	c.dir = ""
	return os.RemoveAll(dir)
}

// tail keeps the end of the process's standard error for an error text.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const maxTailBytes = 512

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-maxTailBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
