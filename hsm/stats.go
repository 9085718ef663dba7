package hsm

// Stats are counters and gauges for metrics, consistent with each other:
// Submitted is always InFlight plus the sum of Answers.
type Stats struct {
	Connections int // usable: handshake done, not going away
	Draining    int // going away, with calls still out
	InFlight    int // calls in the pool, waiting ones included
	Waiting     int // calls without a connection

	Submitted   uint64
	Answers     [numAnswers]uint64 // indexed by Answer
	Retries     uint64             // calls put on a second worker
	LateReplies uint64             // replies to calls that were over

	Connects          uint64 // handshakes completed
	HandshakeFailures uint64 // dials that did not get that far
	ConnectionsLost   uint64 // broken, refused or closed by the worker without GoAway
	GoAways           uint64
}

// Stats returns the counters.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Connections = p.open
	s.Draining = len(p.conns) - p.open
	s.InFlight = p.inFlight
	s.Waiting = len(p.waiting)
	return s
}
