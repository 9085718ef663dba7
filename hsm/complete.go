package hsm

// groupWindow bounds the calls among which those of one sink are looked for:
// with many sinks the search is quadratic.
const groupWindow = 256

// A finisher hands finished calls to their sinks. Each goroutine that finishes
// calls has its own and reuses it. The pool's lock is not held.
type finisher struct {
	done  []*Call // finished, and no longer in any table
	group []*Call
}

// deliver gives all finished calls back, those of one sink together.
func (f *finisher) deliver() {
	for rest := f.done; len(rest) > 0; {
		window := rest[:min(groupWindow, len(rest))]
		rest = rest[len(window):]
		f.deliverWindow(window)
	}
	clear(f.done)
	f.done = f.done[:0]
}

// deliverWindow never touches a call that it has given back: its owner may be
// using it again.
func (f *finisher) deliverWindow(calls []*Call) {
	for i, first := range calls {
		if first == nil {
			continue
		}
		sink := first.Sink
		f.group = append(f.group[:0], first)
		for j := i + 1; j < len(calls); j++ {
			if c := calls[j]; c != nil && c.Sink == sink {
				f.group = append(f.group, c)
				calls[j] = nil
			}
		}
		calls[i] = nil
		sink.Completed(f.group)
		clear(f.group)
	}
}
