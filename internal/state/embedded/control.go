package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// Control gives the document in force.
func (e *Engine) Control(ctx context.Context) (state.Control, error) {
	if err := e.operation(ctx, "reading the control document"); err != nil {
		return state.Control{}, err
	}
	defer e.life.RUnlock()
	c := e.control.Load()
	return state.Control{Epoch: c.Epoch, Document: bytes.Clone(c.Document)}, nil
}

// SetControl replaces the document if its epoch is still c.Epoch.
func (e *Engine) SetControl(ctx context.Context, c state.Control) (uint64, error) {
	const doing = "changing the control document"
	if len(c.Document) > state.MaxControlDoc {
		return 0, fmt.Errorf("%s: its %d bytes are more than %d", doing, len(c.Document), state.MaxControlDoc)
	}
	if err := e.operation(ctx, doing); err != nil {
		return 0, err
	}
	defer e.life.RUnlock()
	r := e.newRequest((*committer).stageControl)
	r.epoch, r.least, r.document = c.Epoch, c.Least, bytes.Clone(c.Document)
	if err := e.do(ctx, doing, r); err != nil {
		return 0, err
	}
	epoch := r.control.Epoch
	e.free.Put(r)
	return epoch, nil
}

// stageControl makes every later commit of the old epoch fail.
func (c *committer) stageControl(r *request) error {
	if r.epoch != c.epoch {
		return fmt.Errorf("%w: its epoch is %d, not %d", state.ErrControlChanged, c.epoch, r.epoch)
	}
	c.epoch = max(c.epoch+1, r.least)
	r.control = &state.Control{Epoch: c.epoch, Document: r.document}
	r.batch = c.e.db.NewBatch()
	op := r.batch.SetDeferred(len(keyControl), 8+len(r.document))
	copy(op.Key, keyControl[:])
	binary.BigEndian.PutUint64(op.Value, c.epoch)
	copy(op.Value[8:], r.document)
	return op.Finish()
}

// AcceptRegression makes sequence the last commit if the directory's is lower.
func (e *Engine) AcceptRegression(ctx context.Context, sequence uint64) error {
	const doing = "accepting an older state"
	if err := e.operation(ctx, doing); err != nil {
		return err
	}
	defer e.life.RUnlock()
	r := e.newRequest((*committer).stageAcceptance)
	r.sequence = sequence
	if err := e.do(ctx, doing, r); err != nil {
		return err
	}
	e.free.Put(r)
	return nil
}

func (c *committer) stageAcceptance(r *request) error {
	if r.sequence <= c.sequence {
		r.sequence = c.sequence
		return nil
	}
	c.sequence = r.sequence
	r.batch = c.e.db.NewBatch()
	setNumber(r.batch, keySequence[:], r.sequence)
	return nil
}
