package worker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// Defaults and bounds of a Server.
const (
	// DefaultMaxConns bounds memory: a connection has about 150 KiB. A
	// daemon needs one, the rest is for overlap and diagnosis.
	DefaultMaxConns = 32
	// DefaultWriteTimeout is how long a client may leave its replies unread.
	DefaultWriteTimeout = 5 * time.Second
	// handshakeTimeout is how long a new connection may take to say Hello.
	handshakeTimeout = 5 * time.Second
	// frameTimeout is how long a frame may stay incomplete.
	frameTimeout = 10 * time.Second
	// drainIdle closes a connection that was told to go away and is silent.
	drainIdle = time.Second
	// acceptRetry is the pause after accepting failed for want of resources.
	acceptRetry = 50 * time.Millisecond
)

// A DataToken executes plans, hashes subjects and proves keys.
type DataToken interface {
	Token
	SubjectHasher
	KeyProof
}

// A Mortal token can lose its login for good, so that only a new process
// helps: Dead gives the reason, nil as long as it lives. It does not wait for
// Execute.
type Mortal interface {
	Dead() error
}

// Options configure a Server. Zero limits take the defaults.
type Options struct {
	Manifest     *keys.Manifest
	Token        DataToken
	AllowedUIDs  []uint32 // users that may connect; none means nobody
	Guess        GuessPolicy
	MaxConns     int
	WriteTimeout time.Duration // for one write of replies
	Log          *slog.Logger
}

// A Server serves one listener with one token. Verifications of all
// connections take turns: the token is entered by one thread at a time.
type Server struct {
	o       Options
	keys    *keyTable
	guesses *guessTable
	clock   clock
	welcome []byte // Welcome and KeyTable frames

	token     sync.Mutex // held while in the token
	busySince atomic.Int64
	crossings atomic.Uint64
	served    atomic.Uint64
	refused   atomic.Uint64
	dead      chan error // gets the reason when the token has died

	draining atomic.Bool
	mu       sync.Mutex // guards listener and conns
	listener *net.UnixListener
	conns    map[*conn]struct{}
	running  sync.WaitGroup
}

// NewServer prepares a server; Serve starts it.
func NewServer(o Options) (*Server, error) {
	c, err := newClock()
	if err != nil {
		return nil, err
	}
	if o.MaxConns <= 0 {
		o.MaxConns = DefaultMaxConns
	}
	if o.WriteTimeout <= 0 {
		o.WriteTimeout = DefaultWriteTimeout
	}
	s := &Server{
		o: o, keys: newKeyTable(o.Manifest), guesses: newGuessTable(o.Guess), clock: c,
		conns: map[*conn]struct{}{}, dead: make(chan error, 1),
	}
	if n := len(s.keys.entries); n > frame.MaxKeys {
		return nil, fmt.Errorf("the manifest has %d keys, a worker serves at most %d", n, frame.MaxKeys)
	}
	w := frame.Welcome{Keys: uint32(len(s.keys.entries))}
	_, _ = rand.Read(w.Epoch[:]) // never fails
	s.welcome = frame.AppendKeyTable(frame.AppendWelcome(nil, &w), s.keys.entries)
	return s, nil
}

// Serve accepts connections until Drain or Close. It returns nil after either.
func (s *Server) Serve(l *net.UnixListener) error {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	if s.draining.Load() {
		_ = l.Close()
	}
	for {
		nc, err := l.AcceptUnix()
		switch {
		case err == nil:
			s.admitConn(nc)
		case errors.Is(err, net.ErrClosed):
			return nil
		default:
			s.o.Log.Error("accepting a connection failed", "error", err)
			time.Sleep(acceptRetry)
		}
	}
}

// admitConn checks who connects and starts a goroutine for it.
func (s *Server) admitConn(nc *net.UnixConn) {
	if err := s.checkPeer(nc); err != nil {
		s.o.Log.Warn("connection refused", "error", err)
		_ = nc.Close()
		return
	}
	c := newConn(s, nc)
	s.mu.Lock()
	full := len(s.conns) >= s.o.MaxConns
	if !full {
		s.conns[c] = struct{}{}
		s.running.Add(1)
	}
	s.mu.Unlock()
	if full {
		s.o.Log.Warn("connection refused", "error", "too many connections", "limit", s.o.MaxConns)
		_ = nc.Close()
		return
	}
	go func() {
		defer s.running.Done()
		c.serve()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

func (s *Server) checkPeer(nc *net.UnixConn) error {
	uid, err := PeerUID(nc)
	if err != nil {
		return err
	}
	for _, allowed := range s.o.AllowedUIDs {
		if uid == allowed {
			return nil
		}
	}
	return &peerError{uid}
}

// Drain stops accepting, says GoAway on every connection, answers what was
// sent before, and returns when all connections are closed or limit is over.
// It reports whether everything was answered.
func (s *Server) Drain(limit time.Duration) bool {
	s.draining.Store(true)
	s.mu.Lock()
	if s.listener != nil {
		_ = s.listener.Close()
	}
	for c := range s.conns {
		c.wake()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// Beat is the state of the server for the supervisor.
func (s *Server) Beat() Beat {
	s.mu.Lock()
	open := len(s.conns)
	s.mu.Unlock()
	b := Beat{
		Served: s.served.Load(), Refused: s.refused.Load(), Crossings: s.crossings.Load(), Connections: open,
	}
	if since := s.busySince.Load(); since != 0 {
		b.BusyNS = max(1, s.clock.now()-since)
	}
	return b
}

// enter takes the token. Between enter and leave the age of the crossing is
// in every beat, so that the supervisor can kill a process that is stuck in
// C, which nothing inside the process can do.
func (s *Server) enter() int64 {
	s.token.Lock()
	now := s.clock.now()
	s.busySince.Store(now)
	return now
}

func (s *Server) leave() {
	s.busySince.Store(0)
	s.crossings.Add(1)
	s.token.Unlock()
}

// noteFailure looks, after the token failed, whether it is dead.
func (s *Server) noteFailure() {
	m, ok := s.o.Token.(Mortal)
	if !ok {
		return
	}
	if err := m.Dead(); err != nil {
		select {
		case s.dead <- err:
		default: // known
		}
	}
}
