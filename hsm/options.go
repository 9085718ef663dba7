package hsm

import (
	"errors"
	"log/slog"
	"time"
)

// Defaults of Options.
const (
	DefaultMaxInFlight    = 16384                  // ~10 MB of calls; seconds of work for any token
	DefaultConnectTimeout = time.Second            // a worker answers Hello within milliseconds once it is up
	DefaultNoWorkerGrace  = 2 * time.Second        // a replaced worker is back within this
	DefaultStallAfter     = 100 * time.Millisecond // hundreds of times a normal verification
	DefaultHealthTimeout  = 500 * time.Millisecond // for one worker's canary
)

// Options configure a Pool. Zero durations and counts mean the defaults.
type Options struct {
	SocketDir string // directory with worker-0.sock, worker-1.sock …; required

	// PeerUID is the user id that must be listening on the sockets. Nil means
	// the owner of SocketDir: whoever else can put a socket there is refused.
	PeerUID *uint32

	MaxInFlight    int           // calls in the pool, waiting ones included; beyond it they are Overloaded
	ConnectTimeout time.Duration // for connect and handshake together
	NoWorkerGrace  time.Duration // calls wait this long for a worker after the last one was lost
	StallAfter     time.Duration // a connection with calls out and no reply for so long is avoided
	HealthTimeout  time.Duration // for one worker's answer to Health

	Log *slog.Logger // connection events; nil discards them
}

func (o Options) withDefaults() (Options, error) {
	if o.SocketDir == "" {
		return Options{}, errors.New("hsm pool: no socket directory")
	}
	if o.MaxInFlight < 0 {
		return Options{}, errors.New("hsm pool: the bound on calls in flight is negative")
	}
	if o.MaxInFlight == 0 {
		o.MaxInFlight = DefaultMaxInFlight
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&o.ConnectTimeout, DefaultConnectTimeout},
		{&o.NoWorkerGrace, DefaultNoWorkerGrace},
		{&o.StallAfter, DefaultStallAfter},
		{&o.HealthTimeout, DefaultHealthTimeout},
	} {
		if *d.v < 0 {
			return Options{}, errors.New("hsm pool: a duration is negative")
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
