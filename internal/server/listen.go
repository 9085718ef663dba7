package server

import (
	"net"
	"sync"
)

// limitedListener accepts no connection while as many as allowed are open:
// further ones wait in the kernel's backlog.
type limitedListener struct {
	net.Listener
	places chan struct{}
	done   chan struct{}
	once   sync.Once
	full   func() // told of a connection that has to wait
}

func limitListener(l net.Listener, connections int, full func()) net.Listener {
	return &limitedListener{Listener: l, places: make(chan struct{}, connections), done: make(chan struct{}), full: full}
}

// Accept waits for a place, then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	default:
		l.full()
		select {
		case l.places <- struct{}{}:
		case <-l.done:
			return nil, net.ErrClosed
		}
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	conn := &limitedConn{Conn: c}
	conn.whenClosed(func() { <-l.places })
	return conn, nil
}

// Close ends Accept, also one that waits for a place.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn

	mu     sync.Mutex
	closed bool
	after  []func()
}

// whenClosed has f called once, after the connection is closed.
func (c *limitedConn) whenClosed(f func()) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.after = append(c.after, f)
	}
	c.mu.Unlock()
	if closed {
		f()
	}
}

// Close gives back once what the connection held.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	after := c.after
	c.closed, c.after = true, nil
	c.mu.Unlock()
	for _, f := range after {
		f()
	}
	return err
}
