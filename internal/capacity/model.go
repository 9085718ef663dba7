// Package capacity says what a deployment of a size needs: a model with few
// numbers, each of them measured, and a simulation with the real transition that
// the model has to agree with. docs/capacity.md has the measured numbers.
package capacity

import "math"

// Traffic is what arrives. Shares are of all requests.
type Traffic struct {
	Tokens    float64 // in use
	PerSecond float64 // requests, at the peak
	Responds  float64 // share of Respond among requests
	Retries   float64 // share of requests that repeat an accepted one
	Replays   float64 // share of duplicates under another id
	Wrong     float64 // share of wrong cryptograms
}

// Costs are measured; docs/capacity.md says with which command.
type Costs struct {
	HSMMicros      float64 // CPU of a worker for one verification
	DaemonMicros   float64 // CPU of a daemon, state and journal included
	EngineMicros   float64 // CPU of the database for one record that is read and written
	RowOverhead    float64 // bytes that the engine needs for a record beside its own
	JournalBytes   float64 // of one record of the journal
	CommitMillis   float64 // of one durable commit of a database, replica included
	BatchMax       float64 // requests of one commit at most
	CoreShare      float64 // of a core that may be busy at the peak
	HSMCores       float64 // of one machine with workers, or HSM in their place
	DaemonCores    float64
	PartitionCores float64 // of one database
}

// Sizes of a record, from its encoding (internal/state).
const (
	headBytes     = 13 // version, flags, highest ATC and bits
	acceptedBytes = 13 // ATC, digest, unpredictable number
	responseBytes = 4
	remembered    = 3
)

// RecordBytes is the size of the record of a token in use, once it has made as
// many taps as are remembered.
func (t Traffic) RecordBytes() float64 {
	// One answered request among those remembered gives all of them room for it.
	accepted := t.accepted()
	answered := min(1, t.Responds/max(accepted, 1e-9))
	any := 1 - math.Pow(1-answered, remembered)
	return headBytes + remembered*acceptedBytes + any*remembered*responseBytes
}

// accepted is the share of requests that an AUTHORISE is accepted for.
func (t Traffic) accepted() float64 { return 1 - t.Responds - t.Retries - t.Replays - t.Wrong }

// Writes is the share of requests that change a record: what is refused as a
// replay, or only repeated, changes none.
func (t Traffic) Writes() float64 { return 1 - t.Retries - t.Replays }

// A Plan is what the traffic needs.
type Plan struct {
	RecordBytes   float64
	StateBytes    float64 // on the medium, one copy
	Writes        float64 // records a second
	HSMs          int     // machines with workers
	Daemons       int
	Partitions    int     // databases, each with its own part of the tokens
	Batch         float64 // requests of one commit of one daemon
	StateMillis   float64 // that a request waits for its state, about
	JournalPerDay float64 // bytes, all daemons
}

// Plan scales the measured costs to the traffic. Nothing is shared between
// tokens but failure counters and the control document, so everything is a
// division; what does not divide is in docs/capacity.md.
func (t Traffic) Plan(c Costs) Plan {
	need := func(micros, cores float64) int {
		return max(1, int(math.Ceil(t.PerSecond*micros/1e6/(cores*c.CoreShare))))
	}
	p := Plan{
		RecordBytes: t.RecordBytes(),
		Writes:      t.PerSecond * t.Writes(),
		HSMs:        need(c.HSMMicros, c.HSMCores),
		Daemons:     need(c.DaemonMicros, c.DaemonCores),
		Partitions:  need(c.EngineMicros*t.Writes(), c.PartitionCores),
	}
	// A daemon commits to one database, one batch after the other: what arrives
	// while one is under way is the next.
	p.Daemons = max(p.Daemons, p.Partitions, int(math.Ceil(t.PerSecond*c.CommitMillis/1e3/c.BatchMax)))
	p.Batch = t.PerSecond / float64(p.Daemons) * c.CommitMillis / 1e3
	p.StateMillis = 1.5 * c.CommitMillis // half of the one under way, and its own
	p.StateBytes = t.Tokens * (p.RecordBytes + c.RowOverhead)
	p.JournalPerDay = t.PerSecond * c.JournalBytes * 86_400
	return p
}
