package store

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/tapseal/tapseal/internal/state"
)

// A token is one record of a batch, and what it becomes.
type token struct {
	current  state.Key
	row      int // in the batch
	previous int // row under the previous subject key, −1 if there is none
	record   state.Record
	err      error
	changed  bool
	moves    bool // from the previous subject key
	torn     bool // read while another daemon moved it, or moved to a newer key than both
	adds     [2]state.Add
	buf      []byte
}

// work is the memory of one batch.
type work struct {
	batch    state.Batch
	tokens   []token
	writes   map[state.Key]int // token whose commit may write the key
	devices  map[state.Key]int // rows that are only read
	counters map[state.Key]int
	open     []*Op // to be decided
	done     []*Op
	again    []*Op
	device   state.Record
	tomb     []byte
}

func (w *work) reset() {
	if w.writes == nil {
		w.writes, w.devices, w.counters = map[state.Key]int{}, map[state.Key]int{}, map[state.Key]int{}
		w.tomb = state.Tombstone().Append(nil)
	}
	clear(w.writes)
	clear(w.devices)
	clear(w.counters)
	w.batch.Rows, w.batch.Counters = w.batch.Rows[:0], w.batch.Counters[:0]
	w.tokens, w.done, w.again = w.tokens[:0], w.done[:0], w.again[:0]
}

// process decides a batch of operations, again where others were faster.
func (s *Store) process(ops []*Op) {
	begun := time.Now()
	w := &s.work
	w.open = append(w.open[:0], ops...)
	for _, op := range w.open {
		op.Outcome, op.Err, op.Sequence, op.attempts = state.Outcome{}, nil, 0, 0
	}
	for len(w.open) > 0 {
		w.reset()
		err := s.once(w)
		s.note(err)
		if err != nil {
			s.tell(err) // before the answers: whoever hears of it finds the others stopped
			s.abandon(w, err)
		}
		deliver(w.done)
		w.open = append(w.open[:0], w.again...)
	}
	s.stats.ops.Add(uint64(len(ops)))
	s.stats.batches.Add(1)
	if s.o.OnCommit != nil {
		s.o.OnCommit(len(ops), time.Since(begun))
	}
}

// abandon ends every operation of a batch without an outcome, those that had no
// place in it as well.
func (s *Store) abandon(w *work, err error) {
	w.open = append(w.open, w.again...)
	w.again = w.again[:0]
	for _, op := range w.open {
		op.Outcome, op.Err = state.Outcome{}, err
		w.done = append(w.done, op)
	}
	s.stats.unavailable.Add(uint64(len(w.open)))
}

// once reads, decides and commits. After it each operation is in done, or has to
// be decided again and is in again; with an error it is in open, done or again,
// and nothing of it was written, or nobody knows.
func (s *Store) once(w *work) error {
	s.layOut(w)
	if len(w.open) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, commitTimeout)
	defer cancel()
	if err := s.engine.Read(ctx, &w.batch); err != nil {
		return err
	}
	rules := s.rules.Load()
	if w.batch.Epoch != rules.epoch {
		return s.reload(ctx, w)
	}
	if l := rules.rules.Lost(); l != nil {
		return lossError(l)
	}
	w.decode()
	for _, op := range w.open {
		if op.token >= 0 {
			w.decide(op, rules.rules)
		}
	}
	w.postpone()
	if !w.prepare() {
		w.done = append(w.done, w.open...)
		return nil
	}
	if err := s.engine.Commit(ctx, &w.batch); err != nil {
		if errors.Is(err, state.ErrControlChanged) {
			return s.reload(ctx, w)
		}
		return err
	}
	s.settle(w)
	return nil
}

// reload takes the control document in force, by which everything has to be
// decided again.
func (s *Store) reload(ctx context.Context, w *work) error {
	if err := s.loadRules(ctx); err != nil {
		return err
	}
	for _, op := range w.open {
		s.retry(w, op)
	}
	return nil
}

// retry decides an operation again, but not for ever.
func (s *Store) retry(w *work, op *Op) {
	op.Outcome, op.Err = state.Outcome{}, nil
	if op.attempts++; op.attempts >= maxAttempts {
		op.Err = ErrBusy
		w.done = append(w.done, op)
		return
	}
	w.again = append(w.again, op)
}

// layOut says what has to be read: for each token a row, for each device, and
// for each counter. Operations that nobody waits for any more are done.
func (s *Store) layOut(w *work) {
	now := s.o.Now()
	w.open = slices.DeleteFunc(w.open, func(op *Op) bool {
		switch {
		case op.Subjects[0].Version == 0:
			op.Err = ErrSubject
		case op.Event.Policy == nil:
			op.Err = ErrEvent
		case !op.Deadline.IsZero() && !now.Before(op.Deadline):
			op.Err = ErrDeadline
		default:
			return false
		}
		w.done = append(w.done, op)
		return true
	})
	for _, op := range w.open {
		op.Event.Now = now.Unix()
		if op.token = w.tokenFor(op); op.token < 0 {
			continue
		}
		if op.Device != (state.Key{}) {
			if _, ok := w.devices[op.Device]; !ok {
				w.devices[op.Device] = w.row(op.Device)
			}
		}
		if p := op.Event.Policy; p.Limits.PeriodSec != 0 {
			period := uint32(op.Event.Now / int64(p.Limits.PeriodSec))
			op.counters[0] = w.counter(counterKey(op.CallerKey, period))
			op.counters[1] = w.counter(counterKey(op.BINKey, period))
		}
	}
}

func (w *work) row(k state.Key) int {
	w.batch.Rows = append(w.batch.Rows, state.Row{Key: k})
	return len(w.batch.Rows) - 1
}

func (w *work) counter(k state.Key) int {
	if i, ok := w.counters[k]; ok {
		return i
	}
	w.batch.Counters = append(w.batch.Counters, state.Counter{Key: k})
	i := len(w.batch.Counters) - 1
	w.counters[k] = i
	return i
}

// tokenFor finds or makes the place of an operation's record. Operations on one
// token share it, so a batch writes no record twice. It is −1 for one that has to
// wait for the next batch: while the subject key rotates, workers may disagree on
// which key is the current one, and then one token has two names.
func (w *work) tokenFor(op *Op) int {
	current, previous := &op.Subjects[0], &op.Subjects[1]
	i, taken := w.writes[current.Key]
	if taken && w.tokens[i].current != current.Key {
		return -1
	}
	var other bool
	if previous.Version != 0 {
		var j int
		if j, other = w.writes[previous.Key]; other && (!taken || i != j) {
			return -1
		}
	}
	if taken {
		if previous.Version != 0 && !other {
			return -1 // what is here was not laid out to move
		}
		return i
	}
	if len(w.tokens) < cap(w.tokens) {
		w.tokens = w.tokens[:len(w.tokens)+1]
	} else {
		w.tokens = append(w.tokens, token{})
	}
	i = len(w.tokens) - 1
	t := &w.tokens[i]
	*t = token{current: current.Key, row: w.row(current.Key), previous: -1, record: t.record, buf: t.buf}
	w.writes[current.Key] = i
	if previous.Version != 0 {
		t.previous = w.row(previous.Key)
		w.writes[previous.Key] = i
	}
	return i
}

// decode reads the records. A token whose record is under the previous subject
// key moves to the current one with its next change.
func (w *work) decode() {
	for i := range w.tokens {
		t := &w.tokens[i]
		from := &w.batch.Rows[t.row]
		if t.previous >= 0 && from.Version == 0 {
			t.moves = true
			from = &w.batch.Rows[t.previous]
		}
		switch err := t.record.Decode(from.Record); {
		case err != nil:
			t.err = ErrDamaged
		case t.record.Status != state.Moved:
		case t.moves:
			t.torn = true
		default:
			t.err = ErrSubject
		}
	}
}

// decide lets the rule decide one operation, on top of those before it.
func (w *work) decide(op *Op, rules *state.Rules) {
	t := &w.tokens[op.token]
	if t.err != nil {
		op.Err = t.err
		return
	}
	if t.torn {
		// An engine reads two keys at two times: in between, another daemon may
		// have moved the record from the second one to the first.
		if op.attempts++; op.attempts < maxAttempts {
			op.token = -1
			return
		}
		op.Err = ErrSubject
		return
	}
	e := &op.Event
	if t.counts(op, w) {
		op.token = -1 // a record carries the counts of one caller: the other one's turn is the next batch
		return
	}
	e.Floor = rules.Floor()
	e.Stops = rules.StopsFor(op.PAN, op.KeySet, op.Version)
	if op.Device != (state.Key{}) {
		switch stopped, err := w.deviceStopped(op.Device); {
		case err != nil:
			op.Err = err
			return
		case stopped:
			e.Stops |= state.StopDevice
		}
	}
	e.CallerFailures, e.BINFailures = 0, 0
	limits := &e.Policy.Limits
	if limits.PeriodSec != 0 {
		e.CallerFailures = w.batch.Counters[op.counters[0]].Value
		e.BINFailures = w.batch.Counters[op.counters[1]].Value
	}
	outcome, changed := state.Next(&t.record, e)
	if op.Outcome = outcome; outcome.Result == 0 {
		op.Err = ErrEvent
	}
	// A genuine tap moves the record, also where it is refused: what stays under
	// the previous key, a suspension say, is forgotten with that key.
	moves := t.moves && e.Matched && t.record.Status != 0
	t.changed = t.changed || changed || moves
	if outcome.Counted && limits.PeriodSec != 0 {
		w.count(t, op)
	}
}

func (w *work) deviceStopped(k state.Key) (bool, error) {
	if err := w.device.Decode(w.batch.Rows[w.devices[k]].Record); err != nil {
		return false, ErrDamaged
	}
	return w.device.Status != 0 && w.device.Status != state.Active, nil
}

// postpone leaves what had no place in this batch for the next one.
func (w *work) postpone() {
	w.open = slices.DeleteFunc(w.open, func(op *Op) bool {
		if op.token < 0 {
			w.again = append(w.again, op)
		}
		return op.token < 0
	})
}

// counts reports whether the token's record carries other counts than the
// operation's, which may be a mismatch.
func (t *token) counts(op *Op, w *work) bool {
	if t.adds[0].N == 0 || op.Event.Matched || op.Event.Policy.Limits.PeriodSec == 0 {
		return false
	}
	for i := range t.adds {
		if t.adds[i].Key != w.batch.Counters[op.counters[i]].Key {
			return true
		}
	}
	return false
}

// count counts a mismatch for caller and BIN, with the token's record. Later
// operations of this batch see it.
func (w *work) count(t *token, op *Op) {
	period := op.Event.Policy.Limits.PeriodSec
	expires := (op.Event.Now/int64(period) + 2) * int64(period)
	for i := range t.adds {
		c := &w.batch.Counters[op.counters[i]]
		c.Value++
		t.adds[i] = state.Add{Key: c.Key, N: t.adds[i].N + 1, Expires: expires}
	}
}

// prepare encodes what changed and reports whether there is anything to commit.
func (w *work) prepare() bool {
	dirty := false
	for i := range w.tokens {
		t := &w.tokens[i]
		if !t.changed || t.err != nil {
			continue
		}
		dirty = true
		t.buf = t.record.Append(t.buf[:0])
		row := &w.batch.Rows[t.row]
		row.Next, row.Adds = t.buf, t.adds
		if t.moves {
			old := w.batch.Rows[t.previous]
			row.Also = &state.Row{Key: old.Key, Version: old.Version, Next: w.tomb}
		}
	}
	return dirty
}

// settle tells the operations what became of them.
func (s *Store) settle(w *work) {
	for _, op := range w.open {
		row := &w.batch.Rows[w.tokens[op.token].row]
		if row.Next == nil {
			w.done = append(w.done, op)
			continue
		}
		if !row.Written {
			s.stats.conflicts.Add(1)
			s.retry(w, op)
			continue
		}
		op.Sequence = w.batch.Sequence
		w.done = append(w.done, op)
	}
}
