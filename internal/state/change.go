package state

import (
	"errors"
	"fmt"
)

// Errors of changes.
var (
	ErrTokenDeleted = errors.New("the token is deleted, for good")
	ErrTokenMoved   = errors.New("the record of the token is under a newer subject key than this service knows")
	// ErrChange: what was asked for cannot be kept.
	ErrChange = fmt.Errorf("a change has an unknown status or channel, a list of more than %d entries, a text of more than %d bytes, or a time before 1970", MaxListed, MaxNoteText)
)

// A Change is what an operator does to a token or device. Zero fields change
// nothing.
type Change struct {
	Status     Status       // Active, Suspended or Deleted
	Restrict   *Restriction // replaces what there was; a zero one lifts it
	Reset      bool         // the window and the remembered requests, for a reissued card
	ResetFloor uint16       // with Reset: no ATC up to it is accepted
	Note       Note
}

// check reports ErrChange for what a record could not be read back with.
func (c *Change) check() error {
	switch c.Status {
	case 0, Active, Suspended, Deleted:
	default:
		return ErrChange
	}
	if n := &c.Note; n.At < 0 || len(n.By) > MaxNoteText || len(n.Why) > MaxNoteText {
		return ErrChange
	}
	if l := c.Restrict; l != nil && (l.Channels >= 1<<(maxChannel+1) ||
		max(len(l.Currencies), len(l.Categories), len(l.Merchants), len(l.Terminals)) > MaxListed) {
		return ErrChange
	}
	return nil
}

// Apply changes a record, or leaves it alone and says why. One that is deleted
// stays so.
func (c *Change) Apply(r *Record, generation uint32) error {
	if err := c.check(); err != nil {
		return err
	}
	switch {
	case r.Status == Moved:
		return ErrTokenMoved
	case r.Status == Deleted && c.Status != Deleted:
		return ErrTokenDeleted
	}
	if !r.Known() {
		r.Status, r.Generation = Active, generation
	}
	if c.Status != 0 {
		r.Status, r.Note = c.Status, c.Note
	}
	if c.Restrict != nil {
		r.Restricted = *c.Restrict
	}
	if c.Reset {
		// What was accepted with the old window is forgotten: from here on only
		// the floor keeps it out.
		r.ARQC, r.TC, r.AAC, r.Velocity = Window{}, Advised{}, Advised{}, Velocity{}
		r.Accepted, r.Floor, r.Generation = r.Accepted[:0], c.ResetFloor, generation
	}
	return nil
}

// Tombstone is the record that stays under an older subject key, so that a
// daemon which only knows that one does not begin a second record.
func Tombstone() *Record { return &Record{Status: Moved} }
