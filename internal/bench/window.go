package bench

import "sync"

// A window bounds the taps in flight of one stream. The sender waits for room
// for a whole message: woken for each answer alone, the load generator would
// spend more on waking than on its messages.
type window struct {
	mu     sync.Mutex
	change sync.Cond
	free   int
	wanted int // by the sender that waits
	closed bool
}

func newWindow(size int) *window {
	w := &window{free: size}
	w.change.L = &w.mu
	return w
}

// take waits for room for n and reports whether there was any before close.
func (w *window) take(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wanted = n
	for w.free < n && !w.closed {
		w.change.Wait()
	}
	w.free -= n
	return !w.closed
}

func (w *window) give(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.free += n
	if w.free >= w.wanted {
		w.change.Signal()
	}
}

// close ends the wait of the sender.
func (w *window) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.change.Signal()
}
