package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tapseal/tapseal/internal/state"
)

const (
	readControl   = `SELECT epoch, document FROM tapseal_control WHERE id = 1`
	changeControl = `UPDATE tapseal_control SET epoch = greatest(epoch + 1, $3), document = $2 WHERE id = 1 AND epoch = $1 RETURNING epoch`
	// tellInstances waits for the commits under way; see commit.go.
	tellInstances = `UPDATE tapseal_instance SET epoch = $1`
	channel       = "tapseal_control"
)

// Control gives the document in force. It can be read while the database's
// regression is not accepted.
func (e *Engine) Control(ctx context.Context) (control state.Control, err error) {
	ctx, end, err := e.operation(ctx)
	if err != nil {
		return state.Control{}, err
	}
	defer end()
	err = e.asking(ctx, "reading the control document", func(c *conn) error {
		c.args.reset()
		exists := false
		err := c.run(ctx, readControl, func(values [][]byte) (err error) {
			exists = true
			control.Epoch, err = readInt8(values[0])
			control.Document = append([]byte(nil), values[1]...)
			return err
		})
		if err == nil && !exists {
			return errors.New("the control document's row is gone")
		}
		return err
	})
	if err != nil {
		return state.Control{}, err
	}
	return control, nil
}

// SetControl replaces the document if its epoch is still c.Epoch.
func (e *Engine) SetControl(ctx context.Context, c state.Control) (epoch uint64, err error) {
	const doing = "changing the control document"
	if len(c.Document) > state.MaxControlDoc {
		return 0, fmt.Errorf("%s: its %d bytes are more than %d", doing, len(c.Document), state.MaxControlDoc)
	}
	ctx, end, err := e.operation(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	conn, _, err := e.conns.get(ctx)
	if err != nil {
		return 0, unavailable(doing, err)
	}
	err = e.repeat(ctx, func() error {
		epoch, err = e.setControl(ctx, conn, c)
		return err
	})
	if errors.Is(err, state.ErrControlChanged) {
		e.conns.put(conn, nil)
	} else {
		e.conns.put(conn, err)
	}
	if err != nil {
		return 0, unavailable(doing, err)
	}
	e.hint()
	return epoch, nil
}

func (e *Engine) setControl(ctx context.Context, c *conn, control state.Control) (epoch uint64, err error) {
	c.warning = ""
	if err := c.exec(ctx, e.o.Isolation.begin()); err != nil {
		return 0, err
	}
	epoch, err = e.changeControl(ctx, c, control)
	if err != nil {
		if undo := c.exec(ctx, "ROLLBACK"); undo != nil {
			return 0, undo
		}
		return 0, err
	}
	if err := c.commit(ctx); err != nil {
		return 0, err
	}
	if c.warning != "" {
		return 0, fmt.Errorf("%w: %s", errNotReplicated, c.warning)
	}
	return epoch, nil
}

func (e *Engine) changeControl(ctx context.Context, c *conn, control state.Control) (epoch uint64, err error) {
	c.args.reset()
	c.args.int8(control.Epoch)
	c.args.bytes(control.Document)
	c.args.int8(control.Least)
	changed := false
	err = c.run(ctx, changeControl, func(values [][]byte) (err error) {
		changed = true
		epoch, err = readInt8(values[0])
		return err
	})
	if err != nil {
		return 0, err
	}
	if !changed {
		return 0, fmt.Errorf("%w: its epoch is not %d", state.ErrControlChanged, control.Epoch)
	}
	c.args.reset()
	c.args.int8(epoch)
	if err := c.run(ctx, tellInstances, nil); err != nil {
		return 0, err
	}
	if e.notifies {
		return epoch, c.exec(ctx, "NOTIFY "+channel)
	}
	return epoch, nil
}

// listen turns the server's notifications into hints. It lives as long as the
// engine; where the server has none it ends at once.
func (e *Engine) listen(ctx context.Context) {
	for n := 1; e.notifies && ctx.Err() == nil; n++ {
		began := time.Now()
		e.listenOnce(ctx)
		if time.Since(began) > time.Minute {
			n = 1
		}
		wait := time.NewTimer(min(time.Duration(n)*100*time.Millisecond, 2*time.Second))
		select {
		case <-ctx.Done():
		case <-wait.C:
		}
		wait.Stop()
	}
}

func (e *Engine) listenOnce(ctx context.Context) {
	c, err := connect(ctx, e.o, e.base)
	if err != nil {
		return
	}
	defer c.discard()
	if err := c.exec(ctx, "LISTEN "+channel); err != nil {
		return
	}
	e.hint() // what was before may have been missed
	until, cancel := context.WithTimeout(ctx, e.o.ConnectionLife)
	defer cancel()
	for c.WaitForNotification(until) == nil {
		e.hint()
	}
}
