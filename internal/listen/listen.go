// Package listen bounds how many connections a listener has at one time.
package listen

import (
	"net"
	"sync"
)

// A limited accepts no connection while as many as allowed are open:
// further ones wait in the kernel's backlog.
type limited struct {
	net.Listener
	places chan struct{}
	done   chan struct{}
	once   sync.Once
	full   func() // told of a connection that has to wait
}

// Limit accepts at most so many connections at one time. full is told each time
// that one has to wait.
func Limit(l net.Listener, connections int, full func()) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, connections), done: make(chan struct{}), full: full}
}

// Accept waits for a place, then for a connection.
func (l *limited) Accept() (net.Conn, error) {
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
	conn := &Conn{Conn: c}
	conn.WhenClosed(func() { <-l.places })
	return conn, nil
}

// Close ends Accept, also one that waits for a place.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

// A Conn is one of them; Accept gives nothing else.
type Conn struct {
	net.Conn

	mu     sync.Mutex
	closed bool
	after  []func()
}

// WhenClosed has f called once, after the connection is closed.
func (c *Conn) WhenClosed(f func()) {
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
func (c *Conn) Close() error {
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
