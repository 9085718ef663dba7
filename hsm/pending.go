package hsm

import "math"

// maxWindow bounds the ids between the oldest pending call of a connection and
// the newest. A connection that reaches it is stuck and gets no more calls.
const maxWindow = 1 << 17

// pending holds the calls that a connection owes an answer for, by id. Ids
// rise by one and are never reused, so the table is a ring over the window
// from the oldest pending id to the next: no hashing, no allocation.
type pending struct {
	slots   []slot // length is a power of two
	oldest  uint64 // nothing below is pending
	next    uint64 // the id of the next call
	n       int
	soonest int64 // no deadline in the table is earlier
}

type slot struct {
	call     *Call // nil: over
	deadline int64 // here too, so that a sweep does not touch the calls
	sent     int64
}

func newPending() pending {
	return pending{slots: make([]slot, 256), oldest: 1, next: 1, soonest: math.MaxInt64}
}

func (t *pending) at(id uint64) *slot { return &t.slots[id&uint64(len(t.slots)-1)] }

func (t *pending) window() int { return int(t.next - t.oldest) }

// add enters a call and returns its id.
func (t *pending) add(c *Call, now int64) uint64 {
	if t.window() == len(t.slots) {
		t.grow()
	}
	id := t.next
	t.next++
	*t.at(id) = slot{call: c, deadline: c.state.deadline, sent: now}
	t.n++
	t.soonest = min(t.soonest, c.state.deadline)
	return id
}

func (t *pending) grow() {
	bigger := make([]slot, 2*len(t.slots))
	for id := t.oldest; id < t.next; id++ {
		bigger[id&uint64(len(bigger)-1)] = *t.at(id)
	}
	t.slots = bigger
}

// get returns the pending call with this id, or nil if it is over.
func (t *pending) get(id uint64) *Call {
	if id < t.oldest || id >= t.next {
		return nil
	}
	return t.at(id).call
}

// remove takes a pending call out of the table.
func (t *pending) remove(id uint64) {
	t.at(id).call = nil
	t.n--
	for t.oldest < t.next && t.at(t.oldest).call == nil {
		t.oldest++
	}
}

// takeFrom removes the calls with this id or a later one, oldest first.
func (t *pending) takeFrom(id uint64, dst []*Call) []*Call {
	for id = max(id, t.oldest); id < t.next; id++ {
		if c := t.get(id); c != nil {
			dst = append(dst, c)
			t.remove(id)
		}
	}
	return dst
}

// expire removes the calls whose deadline has passed. It looks at the table
// only if there may be one.
func (t *pending) expire(now int64, dst []*Call) []*Call {
	if now < t.soonest {
		return dst
	}
	t.soonest = math.MaxInt64
	for id, end := t.oldest, t.next; id < end; id++ {
		s := t.at(id)
		switch {
		case s.call == nil:
		case s.deadline <= now:
			dst = append(dst, s.call)
			t.remove(id)
		default:
			t.soonest = min(t.soonest, s.deadline)
		}
	}
	return dst
}

// oldestSent is when the oldest pending call was sent, if there is one.
func (t *pending) oldestSent() (int64, bool) {
	if t.n == 0 {
		return 0, false
	}
	return t.at(t.oldest).sent, true
}
