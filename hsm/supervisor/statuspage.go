package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
)

// Limits of the status socket.
const (
	maxStatusConns   = 16
	statusIdle       = 10 * time.Second
	maxQuestionBytes = 1 << 10
	maxAnswerBytes   = 1 << 20
)

// Operations of the status socket. It can ask for recycling, nothing more.
const (
	OpStatus  = "status"
	OpRecycle = "recycle"
)

type question struct {
	Op string `json:"op"`
}

type refusal struct {
	Error string `json:"error"`
}

type accepted struct {
	OK bool `json:"ok"`
}

// A statusPage answers JSON lines on the supervisor's socket.
type statusPage struct {
	s        *Supervisor
	listener *net.UnixListener
	mu       sync.Mutex // guards conns
	conns    map[*net.UnixConn]struct{}
	running  sync.WaitGroup
}

func newStatusPage(s *Supervisor) (*statusPage, error) {
	l, err := net.FileListener(s.status)
	if err != nil {
		return nil, fmt.Errorf("serving the status socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("the status socket is no Unix socket"), l.Close())
	}
	p := &statusPage{s: s, listener: ul, conns: map[*net.UnixConn]struct{}{}}
	p.running.Add(1)
	go p.accept()
	return p, nil
}

func (p *statusPage) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *statusPage) accept() {
	defer p.running.Done()
	for {
		c, err := p.listener.AcceptUnix()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			p.s.log.Error("accepting on the status socket failed", "error", err)
			time.Sleep(worker.BeatInterval)
		default:
			p.admit(c)
		}
	}
}

func (p *statusPage) admit(c *net.UnixConn) {
	uid, err := worker.PeerUID(c)
	own := uint32(os.Geteuid()) //nolint:gosec // a user id is never negative
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || (uid != own && uid != 0 && uid != *p.s.c.DaemonUID) || len(p.conns) >= maxStatusConns {
		_ = c.Close()
		return
	}
	p.conns[c] = struct{}{}
	p.running.Add(1)
	go func() {
		defer p.running.Done()
		p.answer(c)
		_ = c.Close()
		p.mu.Lock()
		delete(p.conns, c)
		p.mu.Unlock()
	}()
}

func (p *statusPage) answer(c *net.UnixConn) {
	lines := worker.NewLineScanner(c)
	for {
		if err := c.SetDeadline(time.Now().Add(statusIdle)); err != nil || !lines.Scan() {
			return
		}
		data, err := json.Marshal(p.reply(lines.Bytes()))
		if err != nil {
			return
		}
		if _, err := c.Write(append(data, '\n')); err != nil {
			return
		}
	}
}

func (p *statusPage) reply(line []byte) any {
	var q question
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if len(line) > maxQuestionBytes || d.Decode(&q) != nil {
		return refusal{"question is malformed"}
	}
	switch q.Op {
	case OpStatus:
		return p.s.Status()
	case OpRecycle:
		p.s.Recycle()
		return accepted{true}
	default:
		return refusal{"unknown operation"}
	}
}

// Recycle asks every slot to replace its worker, one after the other.
func (s *Supervisor) Recycle() {
	for _, sl := range s.slots {
		select {
		case sl.asked <- struct{}{}:
		default: // asked already
		}
	}
}

// QueryStatus asks the supervisor of a socket directory how things are.
func QueryStatus(ctx context.Context, socketDir string) (*Status, error) {
	var st Status
	if err := query(ctx, socketDir, OpStatus, &st); err != nil {
		return nil, fmt.Errorf("asking the supervisor for its status: %w", err)
	}
	return &st, nil
}

// QueryRecycle asks the supervisor of a socket directory to recycle its
// workers. It returns when that is under way, not when it is done.
func QueryRecycle(ctx context.Context, socketDir string) error {
	var a accepted
	if err := query(ctx, socketDir, OpRecycle, &a); err != nil {
		return fmt.Errorf("asking the supervisor to recycle: %w", err)
	}
	if !a.OK {
		return errors.New("asking the supervisor to recycle: refused")
	}
	return nil
}

func query(ctx context.Context, socketDir, op string, into any) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", filepath.Join(socketDir, SocketName))
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the answer is complete or not
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := json.Marshal(question{op})
	if err != nil {
		return err
	}
	if _, err := c.Write(append(line, '\n')); err != nil {
		return err
	}
	answer, err := readLine(c)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, into)
}
