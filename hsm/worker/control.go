package worker

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxControlLineBytes bounds one line on the control socket. A check report
// of many unproven keys is sent one key a line.
const maxControlLineBytes = 4 << 10

// maxDetailBytes bounds the free text of a failure.
const maxDetailBytes = 512

// A Report is one line from a worker to the supervisor. Exactly one field is
// set.
type Report struct {
	Ready  *Ready       `json:"ready,omitempty"`
	Failed *Failed      `json:"failed,omitempty"`
	Beat   *Beat        `json:"beat,omitempty"`
	Key    *KeyFinding  `json:"key,omitempty"`
	Done   *CheckResult `json:"done,omitempty"`
}

// Ready says that the login succeeded and a key was proved.
type Ready struct {
	Proved   string   `json:"proved"`             // id of the key that was proved
	Unproven []string `json:"unproven,omitempty"` // at most 16 ids of active keys that failed before it
}

// Failed says that the worker gives up.
type Failed struct {
	Kind   FailureKind `json:"kind"`
	Detail string      `json:"detail"` // at most 512 bytes, no secrets
}

// A Beat is sent every BeatInterval.
type Beat struct {
	Served      uint64 `json:"served"`      // items answered after asking the token
	Refused     uint64 `json:"refused"`     // items answered by the guess limiter
	BusyNS      int64  `json:"busy_ns"`     // age of the crossing under way, 0 if none
	Crossings   uint64 `json:"crossings"`   // crossings finished; progress if it moved
	Connections int    `json:"connections"` // open now
}

// A KeyFinding is the outcome of proving one key in ModeCheck.
type KeyFinding struct {
	Set     string `json:"set"`
	Version uint32 `json:"version"`
	Proved  bool   `json:"proved"`
	Problem string `json:"problem,omitempty"`
}

// A CheckResult ends the report of ModeCheck.
type CheckResult struct {
	Keys     int `json:"keys"`
	Unproven int `json:"unproven"`
}

// An Order is one line from the supervisor to a worker.
type Order string

// Orders.
const (
	OrderGo    Order = "go"    // start accepting connections
	OrderDrain Order = "drain" // stop accepting, say GoAway, finish, exit 0
)

type wireOrder struct {
	Order Order `json:"order"`
}

// ParseReport reads one line of a worker.
func ParseReport(line []byte) (*Report, error) {
	var r Report
	if err := decodeExactly(line, &r); err != nil {
		return nil, errors.New("worker report is malformed")
	}
	set := 0
	for _, is := range []bool{r.Ready != nil, r.Failed != nil, r.Beat != nil, r.Key != nil, r.Done != nil} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return nil, errors.New("worker report must say exactly one thing")
	case r.Failed != nil && !r.Failed.Kind.known():
		return nil, errors.New("worker report has an unknown kind of failure")
	case r.Beat != nil && r.Beat.BusyNS < 0:
		return nil, errors.New("worker report has a negative time")
	}
	return &r, nil
}

// ParseOrder reads one line of the supervisor.
func ParseOrder(line []byte) (Order, error) {
	var w wireOrder
	if err := decodeExactly(line, &w); err != nil {
		return "", errors.New("supervisor order is malformed")
	}
	switch w.Order {
	case OrderGo, OrderDrain:
		return w.Order, nil
	}
	return "", errors.New("supervisor order is unknown")
}

// WriteOrder writes one order as a line.
func WriteOrder(w io.Writer, o Order) error {
	data, err := json.Marshal(wireOrder{o})
	if err != nil {
		return fmt.Errorf("encoding order: %w", err)
	}
	if _, err := w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("writing order: %w", err)
	}
	return nil
}

// NewLineScanner splits a control stream into bounded lines.
func NewLineScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, maxControlLineBytes), maxControlLineBytes)
	return s
}

// reporter writes reports, one whole line in one write.
type reporter struct {
	mu sync.Mutex
	w  io.Writer
}

func (r *reporter) send(m *Report) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding report: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	return nil
}

func (r *reporter) fail(f *Failure) error {
	detail := f.Err.Error()
	return r.send(&Report{Failed: &Failed{Kind: f.Kind, Detail: detail[:min(len(detail), maxDetailBytes)]}})
}
