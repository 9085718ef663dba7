package hsm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/hsm/frame"
)

// connect dials a socket and completes the handshake. The supervisor owns the
// listening sockets, so a connection is accepted while no worker lives: only a
// completed handshake makes it usable, within ConnectTimeout for both.
func (p *Pool) connect(ctx context.Context, worker string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.o.ConnectTimeout)
	defer cancel()
	dialed, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.o.SocketDir, worker))
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	nc, ok := dialed.(*net.UnixConn)
	if !ok {
		_ = dialed.Close()
		return nil, errors.New("connecting: not a Unix socket")
	}
	interrupt := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	c := newConn(p, worker, nc)
	err = c.handshake()
	if !interrupt() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	c.admitted = time.Now()
	return c, nil
}

func (c *conn) handshake() error {
	if err := c.pool.checkPeer(c.nc); err != nil {
		return err
	}
	if _, err := c.nc.Write(frame.AppendHello(nil)); err != nil {
		return err
	}
	h, b, err := frame.Read(c.nc, nil)
	if err != nil {
		return err
	}
	if h.Type != frame.TypeWelcome {
		return fmt.Errorf("%w: type %d instead of a welcome", frame.ErrFrame, h.Type)
	}
	w, err := frame.DecodeWelcome(b)
	if err != nil {
		return err
	}
	c.epoch = w.Epoch
	return c.readTable(int(w.Keys), b)
}

// readTable reads exactly as many entries as were announced.
func (c *conn) readTable(n int, buf []byte) error {
	for len(c.keys) < n {
		h, b, err := frame.Read(c.nc, buf)
		if err != nil {
			return err
		}
		if h.Type != frame.TypeKeyTable || len(c.keys)+int(h.Count) > n {
			return fmt.Errorf("%w: not the announced key table", frame.ErrFrame)
		}
		if c.keys, err = frame.DecodeKeyTable(b, int(h.Count), c.keys); err != nil {
			return err
		}
		buf = b
	}
	c.versions = subjectsOf(c.keys)
	return checkTable(c.keys)
}

// checkPeer compares the user that made the listening socket with the one that
// may: anybody else could answer "matched" to everything.
func (p *Pool) checkPeer(nc *net.UnixConn) error {
	want, err := p.peerUID()
	if err != nil {
		return err
	}
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var serr error
	err = raw.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, serr); err != nil {
		return fmt.Errorf("reading the peer's credentials: %w", err)
	}
	if cred.Uid != want {
		return fmt.Errorf("socket belongs to user %d, want %d", cred.Uid, want)
	}
	return nil
}

func (p *Pool) peerUID() (uint32, error) {
	if p.o.PeerUID != nil {
		return *p.o.PeerUID, nil
	}
	fi, err := os.Stat(p.o.SocketDir)
	if err != nil {
		return 0, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("owner of the socket directory is not known")
	}
	return st.Uid, nil
}
