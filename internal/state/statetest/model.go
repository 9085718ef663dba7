// Package statetest has what an engine must do, as tests that run against any
// of them, and the simplest thing that does it.
package statetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tapseal/tapseal/internal/state"
)

// A Model is a state.Engine in memory, behind one mutex: the reference for tests.
// It forgets everything, and expired counters never.
type Model struct {
	mu       sync.Mutex
	records  map[state.Key]modelRecord
	counters map[state.Key]uint64
	control  state.Control
	sequence uint64
	closed   bool
	changed  chan struct{}
}

type modelRecord struct {
	version uint64
	record  []byte
}

var _ state.Engine = (*Model)(nil)

// NewModel makes an empty one.
func NewModel() *Model {
	return &Model{
		records: make(map[state.Key]modelRecord), counters: make(map[state.Key]uint64), changed: make(chan struct{}, 1),
	}
}

func (m *Model) begin(ctx context.Context) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", state.ErrUnavailable, context.Cause(ctx))
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return fmt.Errorf("%w: it is closed", state.ErrUnavailable)
	}
	return nil
}

// Read implements state.Engine.
func (m *Model) Read(ctx context.Context, b *state.Batch) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	each(b, func(r *state.Row) {
		found := m.records[r.Key]
		r.Version, r.Record = found.version, bytes.Clone(found.record)
	})
	for i := range b.Counters {
		b.Counters[i].Value = m.counters[b.Counters[i].Key]
	}
	b.Epoch = m.control.Epoch
	return nil
}

// each visits rows and their partners.
func each(b *state.Batch, f func(*state.Row)) {
	for i := range b.Rows {
		f(&b.Rows[i])
		if b.Rows[i].Also != nil {
			f(b.Rows[i].Also)
		}
	}
}

// Commit implements state.Engine.
func (m *Model) Commit(ctx context.Context, b *state.Batch) error {
	each(b, func(r *state.Row) { r.Written = false })
	if err := m.begin(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if err := m.check(b); err != nil {
		return err
	}
	m.sequence++
	b.Sequence = m.sequence
	for i := range b.Rows {
		r := &b.Rows[i]
		with := r.Also != nil && r.Also.Next != nil
		if r.Next == nil || m.records[r.Key].version != r.Version || with && m.records[r.Also.Key].version != r.Also.Version {
			continue
		}
		m.write(r)
		if with {
			m.write(r.Also)
		}
		for _, a := range r.Adds {
			m.counters[a.Key] += uint64(a.N)
		}
	}
	return nil
}

func (m *Model) check(b *state.Batch) error {
	if len(b.Rows) > state.MaxBatchRows {
		return errors.New("the batch is too long")
	}
	bad := false
	each(b, func(r *state.Row) {
		bad = bad || r.Next != nil && (len(r.Next) == 0 || len(r.Next) > state.MaxRecordBytes)
	})
	if bad {
		return errors.New("a record is too long or empty")
	}
	if b.Epoch != m.control.Epoch {
		return state.ErrControlChanged
	}
	return nil
}

func (m *Model) write(r *state.Row) {
	m.records[r.Key] = modelRecord{r.Version + 1, bytes.Clone(r.Next)}
	r.Written = true
}

// Control implements state.Engine.
func (m *Model) Control(ctx context.Context) (state.Control, error) {
	if err := m.begin(ctx); err != nil {
		return state.Control{}, err
	}
	defer m.mu.Unlock()
	return state.Control{Epoch: m.control.Epoch, Document: bytes.Clone(m.control.Document)}, nil
}

// SetControl implements state.Engine.
func (m *Model) SetControl(ctx context.Context, c state.Control) (uint64, error) {
	if len(c.Document) > state.MaxControlDoc {
		return 0, errors.New("the document is too long")
	}
	if err := m.begin(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	if c.Epoch != m.control.Epoch {
		return 0, state.ErrControlChanged
	}
	m.control = state.Control{Epoch: max(c.Epoch+1, c.Least), Document: bytes.Clone(c.Document)}
	select {
	case m.changed <- struct{}{}:
	default:
	}
	return m.control.Epoch, nil
}

// Sequence implements state.Engine.
func (m *Model) Sequence(ctx context.Context) (uint64, error) {
	if err := m.begin(ctx); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	return m.sequence, nil
}

// AcceptRegression implements state.Engine.
func (m *Model) AcceptRegression(ctx context.Context, sequence uint64) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	defer m.mu.Unlock()
	m.sequence = max(m.sequence, sequence)
	return nil
}

// Changed implements state.Engine.
func (m *Model) Changed() <-chan struct{} { return m.changed }

// Close implements state.Engine.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}
