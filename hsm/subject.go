package hsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/keys"
)

// ErrNoSubjectKey means that the workers' manifest has no active subject key.
var ErrNoSubjectKey = errors.New("there is no active subject key")

// ErrNoPAN means that there is nothing to hash.
var ErrNoPAN = errors.New("no PAN given")

// Subject hashes one PAN and sequence number, for administration: the current
// subject first, then the previous one, with version 0 if there is none. It
// asks one worker and, if that one fails, another; a worker answers in its turn,
// so ctx is the only bound. If ctx has a deadline, the first worker has half of
// the time.
func (p *Pool) Subject(ctx context.Context, pan cryptogram.PAN, psn cryptogram.PSN) ([2]Subject, error) {
	if pan.IsZero() {
		return [2]Subject{}, ErrNoPAN
	}
	conns := p.inTurn()
	if len(conns) == 0 {
		return [2]Subject{}, ErrNoWorker
	}
	var failed []error
	for i, c := range conns[:min(len(conns), maxAttempts)] {
		s, err := c.subjectWithin(ctx, pan, psn, i == 0 && len(conns) > 1)
		if err == nil {
			return s, nil
		}
		failed = append(failed, fmt.Errorf("hashing a subject on %s: %w", c.worker, err))
		if ctx.Err() != nil {
			break
		}
	}
	return [2]Subject{}, errors.Join(failed...)
}

func (c *conn) subjectWithin(ctx context.Context, pan cryptogram.PAN, psn cryptogram.PSN, half bool) ([2]Subject, error) {
	if end, ok := ctx.Deadline(); ok && half {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	r, err := c.ask(ctx, frame.TypeSubject, func(o *outbox, id uint64) { o.addSubject(id, &pan, psn) })
	switch {
	case err != nil:
		return [2]Subject{}, err
	case r.Status == frame.StatusKeyUnknown:
		return [2]Subject{}, ErrNoSubjectKey
	case r.Status != frame.StatusMatched:
		return [2]Subject{}, fmt.Errorf("worker answers %v", answerTo(r.Status))
	}
	return r.Subjects, nil
}

// SubjectVersions gives the versions of the subject key that are in force: 0 for
// none. Where workers disagree, the newest one counts. It takes no lock.
func (p *Pool) SubjectVersions() (current, previous uint32) {
	v := unpack(p.tables.subjects.Load())
	return v.current, v.previous
}

// SubjectKeys names the subject keys that are in force: zero ids for none. It
// looks through the merged table, so it is not for each tap.
func (p *Pool) SubjectKeys() (current, previous keys.ID) {
	m := p.tables.merged.Load()
	if m == nil {
		return current, previous
	}
	v := unpack(p.tables.subjects.Load())
	for name, k := range *m {
		switch {
		case k.Use != keys.UseSubjectHash:
		case name.version == v.current:
			current = k.ID
		case name.version == v.previous:
			previous = k.ID
		}
	}
	return current, previous
}

// subjectVersions are those of one key table that are in force, 0 for none.
type subjectVersions struct{ current, previous uint32 }

func (v subjectVersions) pack() uint64 { return uint64(v.current)<<32 | uint64(v.previous) }

func unpack(n uint64) subjectVersions {
	return subjectVersions{current: uint32(n >> 32), previous: uint32(n)}
}

func subjectsOf(entries []frame.KeyEntry) subjectVersions {
	var versions []keys.Version
	for i := range entries {
		if e := &entries[i]; e.Use == keys.UseSubjectHash {
			versions = append(versions, keys.Version{Number: e.Version, State: e.State})
		}
	}
	current, previous := keys.InForce(versions)
	return subjectVersions{current: current.Number, previous: previous.Number}
}

// hashed reports whether s are under exactly these versions.
func (v subjectVersions) hashed(s *[2]Subject) bool {
	return s[0].Version == v.current && s[1].Version == v.previous
}

// subjectsFit reports whether a comparison has the subjects that the worker's
// key table promises. One without them could not be checked for a replay.
func (c *conn) subjectsFit(r *frame.Reply) bool {
	if r.Status != frame.StatusMatched && r.Status != frame.StatusMismatched {
		return true // decoding allows none there
	}
	return c.versions.hashed(&r.Subjects)
}

// settleSubjects is settleAsked for the answer to a Subject frame.
func (c *conn) settleSubjects(r *frame.SubjectsReply) error {
	if r.Status == frame.StatusMatched && !c.versions.hashed(&r.Subjects) {
		return fmt.Errorf("%w: subjects of other versions", frame.ErrFrame)
	}
	return c.settleAsked(frame.TypeSubject, *r)
}
