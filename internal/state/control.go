package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// A StopKind says what a standing stop is about. The zero value is none.
type StopKind string

// Kinds. A device is a record of its own, because there can be very many.
const (
	StopsBIN StopKind = "bin"
	StopsKey StopKind = "key"
)

// A StandingStop stops the taps of a BIN range or of a key, until it is lifted.
type StandingStop struct {
	Kind StopKind `json:"kind"`
	// First and Last bound a range of PANs, as digits filled up to 19.
	First uint64 `json:"first,omitempty"`
	Last  uint64 `json:"last,omitempty"`
	// KeySet and KeyVersion name a key; version 0 is every one.
	KeySet     string `json:"key_set,omitempty"`
	KeyVersion uint32 `json:"key_version,omitempty"`
	// Name is what people call it: "476173", "demo-visa/1".
	Name string `json:"name"`
	At   int64  `json:"at"` // Unix seconds
	By   string `json:"by"`
	Why  string `json:"why"`
}

// MaxStops bounds the standing stops of a deployment: each tap asks them all.
const MaxStops = 256

// Rules are the control document: what every decision depends on.
type Rules struct {
	Format     int    `json:"format"` // 1
	Generation uint32 `json:"generation"`
	Raise      uint16 `json:"raise,omitempty"`
	FloorDate  uint32 `json:"floor_date,omitempty"`
	// SubjectKey names the key in the HSM under whose hashes the records are, and
	// PreviousKey the one before, until its rotation has been ended.
	SubjectKey  string         `json:"subject_key,omitempty"`
	PreviousKey string         `json:"previous_subject_key,omitempty"`
	Stops       []StandingStop `json:"stops,omitempty"`
	// Losses are what instances have found missing in the state, the last one of
	// each. While one is not accepted, no instance decides anything.
	Losses []Loss `json:"losses,omitempty"`
}

const rulesFormat = 1

// EpochAt is the least epoch of a control document that is written at t. It is a
// time so that an epoch which an older state has lost never comes back.
func EpochAt(t time.Time) uint64 { return uint64(max(t.UnixMicro(), 0)) }

// A Loss is that the state lacks commits of an instance: it is an older one, also
// for the instances that lost nothing of their own and would not notice.
type Loss struct {
	Instance     string `json:"instance"`     // its name, for people
	Acknowledged uint64 `json:"acknowledged"` // the last commit that it knows of
	At           int64  `json:"at"`           // Unix seconds
	Accepted     bool   `json:"accepted,omitempty"`
}

// maxLosses bounds the accepted ones that are kept.
const maxLosses = 64

// Lose notes a loss, and reports whether it is a new one. One that was accepted
// is no new one, so that an instance which is started again and again before it
// has accepted its own does not stop the others.
func (r *Rules) Lose(l Loss) bool {
	i := slices.IndexFunc(r.Losses, func(k Loss) bool { return k.Instance == l.Instance })
	if i >= 0 && r.Losses[i].Acknowledged >= l.Acknowledged {
		return false
	}
	if i >= 0 {
		r.Losses = slices.Delete(r.Losses, i, i+1)
	}
	for len(r.Losses) >= maxLosses {
		i := slices.IndexFunc(r.Losses, func(k Loss) bool { return k.Accepted })
		r.Losses = slices.Delete(r.Losses, max(i, 0), max(i, 0)+1) // one that is not accepted stops everything
	}
	l.Accepted = false
	r.Losses = append(r.Losses, l)
	return true
}

// LossOf is the number of the last loss of an instance, 0 if there is none.
func (r *Rules) LossOf(instance string) uint64 {
	for i := range r.Losses {
		if r.Losses[i].Instance == instance {
			return r.Losses[i].Acknowledged
		}
	}
	return 0
}

// Lost is a loss that nobody has accepted, nil if there is none.
func (r *Rules) Lost() *Loss {
	for i := range r.Losses {
		if !r.Losses[i].Accepted {
			return &r.Losses[i]
		}
	}
	return nil
}

// Restored begins a generation, after an older state was restored: up to raise
// above the highest ATC of each record, and without one up to date (YYMMDD as
// BCD, 0 is none), nothing is accepted. What earlier generations raised goes on
// being added, for the records that nobody has touched since. It accepts every
// loss.
func (r *Rules) Restored(raise uint16, date uint32) {
	for i := range r.Losses {
		r.Losses[i].Accepted = true
	}
	r.Generation++
	r.Raise = uint16(min(uint32(r.Raise)+uint32(raise), 0xFFFF))
	r.FloorDate = max(r.FloorDate, date)
}

// Floor is what the rules say of older records.
func (r *Rules) Floor() Floor {
	return Floor{Generation: r.Generation, Raise: r.Raise, Date: r.FloorDate}
}

// StopsFor says what is stopped for a tap of this PAN, filled up to 19 digits,
// and key.
func (r *Rules) StopsFor(pan uint64, keySet string, version uint32) (s Stop) {
	for i := range r.Stops {
		switch stop := &r.Stops[i]; stop.Kind {
		case StopsBIN:
			if stop.First <= pan && pan <= stop.Last {
				s |= StopBIN
			}
		case StopsKey:
			if stop.KeySet == keySet && (stop.KeyVersion == 0 || stop.KeyVersion == version) {
				s |= StopKey
			}
		}
	}
	return s
}

// same reports whether two stops are about the same.
func (s *StandingStop) same(t *StandingStop) bool {
	return s.Kind == t.Kind && s.First == t.First && s.Last == t.Last && s.KeySet == t.KeySet && s.KeyVersion == t.KeyVersion
}

// Errors of stops.
var (
	ErrStopExists   = errors.New("this is stopped already")
	ErrNoSuchStop   = errors.New("there is no such stop")
	ErrBadStop      = errors.New("a stop needs a range of PANs, or a key set")
	ErrTooManyStops = fmt.Errorf("there are %d standing stops already, which is the most", MaxStops)
)

// valid reports whether a stop stops anything. One that is not understood would
// make the whole document unreadable, for every daemon.
func (s *StandingStop) valid() bool {
	switch s.Kind {
	case StopsBIN:
		return s.First <= s.Last && s.Last != 0 && s.KeySet == "" && s.KeyVersion == 0
	case StopsKey:
		return s.KeySet != "" && s.First == 0 && s.Last == 0
	}
	return false
}

// Add adds a stop.
func (r *Rules) Add(s StandingStop) error {
	switch {
	case !s.valid():
		return ErrBadStop
	case slices.ContainsFunc(r.Stops, func(t StandingStop) bool { return t.same(&s) }):
		return ErrStopExists
	case len(r.Stops) >= MaxStops:
		return ErrTooManyStops
	}
	r.Stops = append(r.Stops, s)
	return nil
}

// Lift takes a stop away.
func (r *Rules) Lift(s StandingStop) error {
	i := slices.IndexFunc(r.Stops, func(t StandingStop) bool { return t.same(&s) })
	if i < 0 {
		return ErrNoSuchStop
	}
	r.Stops = slices.Delete(r.Stops, i, i+1)
	return nil
}

// Marshal is the document.
func (r *Rules) Marshal() ([]byte, error) {
	r.Format = rulesFormat
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the control document: %w", err)
	}
	if len(b) > MaxControlDoc {
		return nil, errors.New("writing the control document: it is too long")
	}
	return b, nil
}

// ParseRules reads a document; none is the rules of a new state. What it does not
// know is an error: a stop that is not understood would not stop.
func ParseRules(doc []byte) (*Rules, error) {
	if len(doc) == 0 {
		return &Rules{Format: rulesFormat}, nil
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.DisallowUnknownFields()
	r := &Rules{}
	if err := d.Decode(r); err != nil {
		return nil, errors.New("the control document is damaged or of a newer version")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) || r.Format != rulesFormat {
		return nil, errors.New("the control document is damaged or of a newer version")
	}
	for i := range r.Stops {
		if !r.Stops[i].valid() {
			return nil, errors.New("the control document has a stop that is not understood")
		}
	}
	return r, nil
}
