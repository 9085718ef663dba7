package state

import "errors"

// Errors of changes.
var (
	ErrTokenDeleted = errors.New("the token is deleted, for good")
	ErrTokenMoved   = errors.New("the record of the token is under a newer subject key than this service knows")
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

// Apply changes a record. One that is deleted stays so.
func (c *Change) Apply(r *Record, generation uint32) error {
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
