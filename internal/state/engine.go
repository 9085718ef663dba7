package state

import (
	"context"
	"errors"
	"fmt"
)

// Bounds that every engine has to carry.
const (
	KeyBytes       = 16
	MaxRecordBytes = 1024 // a record in the common case has at most 64
	MaxBatchRows   = 1024
	MaxControlDoc  = 1 << 20
)

// A Key names one record, or one counter: a keyed hash, never a PAN.
type Key [KeyBytes]byte

// Errors of an engine. Everything else that an engine returns is wrapped in one
// of these.
var (
	// ErrUnavailable: nothing is known. What was to be written may be there or
	// not; whoever asks again finds out.
	ErrUnavailable = errors.New("the state cannot be reached")
	// ErrControlChanged: the control document is another one than the batch was
	// decided by; nothing was written.
	ErrControlChanged = errors.New("the control document has changed")
	// ErrRegressed: the state is older than what this instance has been told is
	// durable. It stays until an operator accepts it; nothing was written.
	ErrRegressed = errors.New("the state is older than what was acknowledged")
	// ErrBroken: the medium failed in a way that leaves unknown what it holds.
	// The process must end.
	ErrBroken = errors.New("the state cannot be trusted any more")
)

// A Row is one record on its way out of and into an engine.
//
// Engines compare versions only: they never look into a record.
type Row struct {
	Key     Key
	Version uint64 // Read sets it; 0 means that there is no record. Commit writes only over this very version
	Record  []byte // Read sets it; memory of the batch, valid until its next Read
	Next    []byte // Commit writes it if it is not nil; at most MaxRecordBytes, not empty

	// Also is written together with this row or not at all; it has no Also and
	// no Adds of its own. It is rare: an engine may take a slower way.
	Also *Row

	// Adds are counted if and only if this row is written by this Commit.
	Adds [2]Add

	// Written says after Commit whether Next is there now, durably. False is
	// a conflict: another instance, or another batch, was faster.
	Written bool
}

// An Add counts for one counter. N 0 is none.
type Add struct {
	Key Key
	N   uint32
	// Expires is the Unix time in seconds after which nobody asks for the
	// counter any more, so that the engine may delete it.
	Expires int64
}

// A Counter is read with a batch.
type Counter struct {
	Key   Key
	Value uint64 // Read sets it; 0 if there is none
}

// A Batch is read, decided on and committed. Its memory is reused.
type Batch struct {
	Rows     []Row     // for Commit, the keys of rows that have Next (Also included) are distinct
	Counters []Counter // for Read

	// Epoch is that of the control document. Read sets it; Commit writes
	// nothing (ErrControlChanged) if the document has changed since.
	Epoch uint64
	// Sequence counts this instance's commits. Commit sets it to one more than
	// the last one; it is durable with the batch.
	Sequence uint64
}

// A Control is the small document that every decision depends on: what is
// stopped, the generation of the state, its floors. Engines do not look into it.
type Control struct {
	Epoch    uint64 // grows with each change; 0 if there never was a document
	Document []byte
	// Least is for SetControl: the new epoch is this one, or one more than the old
	// one, whichever is higher. A time makes sure that an epoch which was lost with
	// an older state never comes back with another document.
	Least uint64
}

// LostCommits is an ErrRegressed that says which: the medium lacks commits of
// this instance up to number Acknowledged.
type LostCommits struct{ Acknowledged uint64 }

func (l *LostCommits) Error() string {
	return fmt.Sprintf("%v: commits of this instance are missing, of %d", ErrRegressed, l.Acknowledged)
}

// Unwrap makes it an ErrRegressed.
func (*LostCommits) Unwrap() error { return ErrRegressed }

// An Engine keeps opaque records durably. Its methods may be called
// concurrently with different batches. What it acknowledges survives a crash of
// the process and of the machine.
//
// An engine MUST be linearizable for each key: a Read that begins after a
// Commit has returned sees what it wrote. A Commit that returns an error other
// than ErrUnavailable and ErrBroken has written nothing.
type Engine interface {
	// Read fills in every row, its Also, every counter, and the epoch.
	Read(ctx context.Context, b *Batch) error
	// Commit writes every row that has Next and whose version is still the one
	// that was read, counts their Adds, and says in Written which. It returns
	// after the data are durable.
	Commit(ctx context.Context, b *Batch) error
	// Control gives the document in force.
	Control(ctx context.Context) (Control, error)
	// SetControl replaces the document if its epoch is still c.Epoch
	// (ErrControlChanged if not), durably, and returns the new one's epoch.
	SetControl(ctx context.Context, c Control) (uint64, error)
	// Sequence is this instance's last commit as the medium has it.
	Sequence(ctx context.Context) (uint64, error)
	// AcceptRegression makes sequence this instance's last commit, durably, if the
	// medium's is lower: an operator has accepted that what was acknowledged up to
	// it is lost, and the journal, which knows of it, is not ahead any more.
	AcceptRegression(ctx context.Context, sequence uint64) error
	// Changed says that the control document may have changed. It is a hint: an
	// engine may send too often or never.
	Changed() <-chan struct{}
	// Close waits for what is under way.
	Close() error
}
