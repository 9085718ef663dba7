package server

import "sync"

// A crowd counts one listener's connections by principal. No principal may have
// more than half of them, so that one whose clients reconnect in a loop, or
// whose key was stolen, leaves places for the others.
type crowd struct {
	most int // of one principal

	mu sync.Mutex
	in map[string]int // by the principal's name, which outlives a reload
}

func newCrowd(connections int) *crowd {
	return &crowd{most: max(1, connections/2), in: make(map[string]int)}
}

func (c *crowd) enter(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in[name] >= c.most {
		return false
	}
	c.in[name]++
	return true
}

func (c *crowd) leave(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.in[name]--; c.in[name] <= 0 {
		delete(c.in, name)
	}
}
