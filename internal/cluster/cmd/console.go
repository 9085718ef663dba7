package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"testing"
)

// A console is a test that nobody runs: what brings up clusters for tests wants
// one, to end them with.
type console struct {
	testing.TB // for what is not needed

	mu       sync.Mutex // guards what follows
	cleanups []func()
	failed   bool
}

// run runs f and cleans up, also after a signal: nothing must stay behind.
func (c *console) run(f func()) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		c.fail("interrupted")
	}
	for {
		c.mu.Lock()
		n := len(c.cleanups)
		if n == 0 {
			c.mu.Unlock()
			return
		}
		last := c.cleanups[n-1]
		c.cleanups = c.cleanups[:n-1]
		c.mu.Unlock()
		last()
	}
}

func (c *console) fail(text string) {
	fmt.Fprintln(os.Stderr, "cluster:", text)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed = true
}

// Cleanup runs f at the end.
func (c *console) Cleanup(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cleanups = append(c.cleanups, f)
}

// Failed reports whether anything failed.
func (c *console) Failed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed
}

// Helper does nothing.
func (c *console) Helper() {}

// Errorf goes on.
func (c *console) Errorf(format string, args ...any) { c.fail(fmt.Sprintf(format, args...)) }

// Fatal ends the goroutine.
func (c *console) Fatal(args ...any) {
	c.fail(fmt.Sprint(args...))
	runtime.Goexit()
}

// Fatalf ends the goroutine.
func (c *console) Fatalf(format string, args ...any) {
	c.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
