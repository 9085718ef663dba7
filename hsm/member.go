package hsm

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// Times of connecting.
const (
	scanInterval = 250 * time.Millisecond // how often SocketDir is listed
	minBackoff   = 5 * time.Millisecond
	maxBackoff   = 200 * time.Millisecond // a tenth of the 2 s in which service must be back
	steadyAfter  = 500 * time.Millisecond // a connection that lived so long resets the backoff
)

// watch keeps one goroutine for each worker socket in SocketDir.
func (p *Pool) watch(ctx context.Context) {
	tick := time.NewTicker(scanInterval)
	defer tick.Stop()
	var lastError string
	for {
		names, err := p.sockets()
		if err != nil && err.Error() != lastError {
			p.log.Warn("socket directory cannot be listed", slog.String("reason", err.Error()))
			lastError = err.Error()
		}
		if err == nil {
			lastError = ""
		}
		for _, name := range names {
			p.start(ctx, name)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sockets lists the names worker-<n>.sock.
func (p *Pool) sockets() ([]string, error) {
	entries, err := os.ReadDir(p.o.SocketDir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if isWorkerSocket(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func isWorkerSocket(name string) bool {
	n, ok := strings.CutPrefix(name, "worker-")
	if !ok {
		return false
	}
	if n, ok = strings.CutSuffix(n, ".sock"); !ok {
		return false
	}
	v, err := strconv.ParseUint(n, 10, 16)
	return err == nil && strconv.FormatUint(v, 10) == n
}

// start begins to keep a socket connected, unless that is done already.
func (p *Pool) start(ctx context.Context, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.members[name]; ok || p.closed {
		return
	}
	p.members[name] = struct{}{}
	p.wg.Go(func() { p.keep(ctx, name) })
}

// keep connects to one socket again and again, until the socket is gone. A
// connection that is going away is replaced at once, beside the old one.
func (p *Pool) keep(ctx context.Context, name string) {
	defer p.forget(name)
	wait := backoff{}
	var lastError string
	for {
		c, err := p.connect(ctx, name)
		if err == nil {
			lastError = ""
			if !p.attend(ctx, c) {
				return
			}
			if time.Since(c.admitted) > steadyAfter {
				wait = backoff{}
				continue
			}
		} else if gone := p.noteFailure(ctx, name, err, &lastError); gone {
			return
		}
		if !wait.sleep(ctx) {
			return
		}
	}
}

// attend puts a connection to use and waits until it takes no more calls.
func (p *Pool) attend(ctx context.Context, c *conn) bool {
	p.tables.add(c, p.log)
	if !p.admit(c) {
		_ = c.nc.Close()
		return false
	}
	p.log.Info("worker connected", c.attrs(slog.Int("keys", len(c.keys)))...)
	select {
	case <-c.gone:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// noteFailure counts and logs a dial that failed, each reason once, and reports
// whether there is no socket any more.
func (p *Pool) noteFailure(ctx context.Context, name string, err error, last *string) (gone bool) {
	if ctx.Err() != nil {
		return true
	}
	p.mu.Lock()
	p.stats.HandshakeFailures++
	p.mu.Unlock()
	if reason := err.Error(); reason != *last {
		*last = reason
		p.log.Warn("worker cannot be reached", slog.String("worker", name), slog.String("reason", reason))
	}
	return errors.Is(err, fs.ErrNotExist)
}

func (p *Pool) forget(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.members, name)
}

// A backoff doubles the wait from minBackoff to maxBackoff.
type backoff struct{ next time.Duration }

// sleep waits and reports whether ctx is still alive.
func (b *backoff) sleep(ctx context.Context) bool {
	b.next = min(max(2*b.next, minBackoff), maxBackoff)
	timer := time.NewTimer(b.next)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
