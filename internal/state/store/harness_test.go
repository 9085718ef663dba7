package store_test

import (
	"context"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/embedded"
	"github.com/tapseal/tapseal/internal/state/statetest"
	"github.com/tapseal/tapseal/internal/state/store"
)

// noon is the clock of tests that need one: Unix seconds, a multiple of 60.
const noon = 1_800_000_000

// An engine under test goes wrong where the real ones cannot be made to: hooks
// run before the engine is asked, and what they return is its answer; after runs
// when it has answered. And it gives a batch as little memory as the contract
// allows: what it has read is scribbled over at the batch's next Read, what was to
// be written after the Commit.
type engine struct {
	state.Engine
	mu      sync.Mutex
	arenas  map[*state.Batch][]byte
	read    func(b *state.Batch) error
	commit  func(b *state.Batch) error
	after   func(b *state.Batch) error
	control func() error
	commits int
	rows    int
}

func newEngine() *engine { return wrap(statetest.NewModel()) }

func wrap(e state.Engine) *engine { return &engine{Engine: e, arenas: map[*state.Batch][]byte{}} }

func (e *engine) hook(h *func(*state.Batch) error) func(*state.Batch) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if *h == nil {
		return func(*state.Batch) error { return nil }
	}
	return *h
}

func (e *engine) set(h *func(*state.Batch) error, f func(*state.Batch) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*h = f
}

func (e *engine) Read(ctx context.Context, b *state.Batch) error {
	if err := e.hook(&e.read)(b); err != nil {
		return err
	}
	e.mu.Lock()
	scribble(e.arenas[b])
	e.mu.Unlock()
	if err := e.Engine.Read(ctx, b); err != nil {
		return err
	}
	var arena []byte
	for i := range b.Rows {
		for _, r := range []*state.Row{&b.Rows[i], b.Rows[i].Also} {
			if r != nil {
				arena = append(arena, r.Record...)
			}
		}
	}
	at := arena
	for i := range b.Rows {
		for _, r := range []*state.Row{&b.Rows[i], b.Rows[i].Also} {
			if r != nil {
				n := len(r.Record)
				r.Record, at = at[:n:n], at[n:]
			}
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.arenas[b] = arena
	return nil
}

func scribble(b []byte) {
	for i := range b {
		b[i] = 0xA5
	}
}

func (e *engine) Commit(ctx context.Context, b *state.Batch) error {
	if err := e.hook(&e.commit)(b); err != nil {
		return err
	}
	err := e.Engine.Commit(ctx, b)
	if err == nil {
		err = e.hook(&e.after)(b)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.commits++
	seen := map[state.Key]bool{}
	for i := range b.Rows {
		for _, r := range []*state.Row{&b.Rows[i], b.Rows[i].Also} {
			if r == nil || r.Next == nil {
				continue
			}
			if e.rows++; seen[r.Key] {
				panic("a batch writes a record twice")
			}
			seen[r.Key] = true
			if r.Key[0] != 'T' || len(r.Next) > 20 { // a tombstone is the store's own
				scribble(r.Next)
			}
		}
	}
	return err
}

func (e *engine) Control(ctx context.Context) (state.Control, error) {
	e.mu.Lock()
	f := e.control
	e.mu.Unlock()
	if f != nil {
		if err := f(); err != nil {
			return state.Control{}, err
		}
	}
	return e.Engine.Control(ctx)
}

// engines are those that stores are tested over.
func engines(t *testing.T, test func(t *testing.T, e state.Engine)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		test(t, newEngine())
	})
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		e, err := embedded.Open(t.TempDir()+"/state", embedded.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, wrap(e))
	})
}

func open(t testing.TB, e state.Engine, o store.Options) *store.Store {
	t.Helper()
	s, err := store.New(context.Background(), e, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// still is a clock that stands.
func still() store.Options {
	return store.Options{Now: func() time.Time { return time.Unix(noon, 0) }}
}

// A desk takes operations that come back.
type desk struct{ back chan *store.Op }

func newDesk() *desk { return &desk{make(chan *store.Op, 1<<16)} }

func (d *desk) Settled(ops []*store.Op) {
	for _, op := range ops {
		d.back <- op
	}
}

// take waits for n operations, each of which must come back once.
func (d *desk) take(t testing.TB, n int) {
	t.Helper()
	seen := map[*store.Op]bool{}
	for range n {
		select {
		case op := <-d.back:
			if seen[op] {
				t.Fatal("an operation came back twice")
			}
			seen[op] = true
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d operations came back", len(seen), n)
		}
	}
	select {
	case <-d.back:
		t.Fatal("an operation came back twice")
	default:
	}
}

// ask submits operations at once and waits for them.
func ask(t testing.TB, s *store.Store, ops ...*store.Op) {
	t.Helper()
	d := newDesk()
	for _, op := range ops {
		op.Sink = d
	}
	s.Submit(ops...)
	d.take(t, len(ops))
	for _, op := range ops {
		if (op.Outcome.Result == 0) == (op.Err == nil) {
			t.Fatalf("outcome %+v and error %v", op.Outcome, op.Err)
		}
	}
}

// An option changes an operation.
type option func(*store.Op)

func subject(version uint32, token int) store.Subject {
	s := store.Subject{Version: version, Key: state.Key{'T', byte(version)}}
	binary.BigEndian.PutUint32(s.Key[4:], uint32(token))
	return s
}

// tap is an authentic AUTHORISE by caller 1; request 0 is the one of the ATC.
func tap(token int, atc uint16, request uint32, options ...option) *store.Op {
	p := state.DefaultPolicy()
	op := &store.Op{
		Subjects: [2]store.Subject{subject(1, token)}, PAN: 4761730000000000119, KeySet: "demo", Version: 1,
		Event: state.Event{Policy: &p, Purpose: state.Authorise, Matched: true, ATC: atc, Date: 0x270115},
	}
	e := &op.Event
	binary.BigEndian.PutUint32(e.UN[:], uint32(atc)+0x1000000)
	binary.BigEndian.PutUint32(e.Requests[0][:], request)
	e.Requests[0][4], e.Requests[0][5], e.Requests[0][6] = 1, byte(atc>>8), byte(atc)
	caller(1)(op)
	for _, o := range options {
		o(op)
	}
	return op
}

func caller(n byte) option {
	return func(op *store.Op) {
		op.Event.Caller, op.CallerKey, op.BINKey = uint32(n), state.Key{'C', n}, state.Key{'B', n}
		op.Event.Requests[0][4] = n
	}
}

func mismatched(op *store.Op) { op.Event.Matched = false }

func policy(change func(p *state.Policy)) option {
	return func(op *store.Op) {
		p := *op.Event.Policy
		change(&p)
		op.Event.Policy = &p
	}
}

// rotating names the token under the current and the previous subject key, as a
// worker does that knows both.
func rotating(op *store.Op) {
	n := int(binary.BigEndian.Uint32(op.Subjects[0].Key[4:]))
	op.Subjects = [2]store.Subject{subject(2, n), subject(1, n)}
	old := op.Event.Requests[0]
	op.Event.Requests = [2]state.Digest{old, old}
	op.Event.Requests[0][3] ^= 0x80
}

// rotated names it under the new key only.
func rotated(op *store.Op) {
	rotating(op)
	op.Subjects[1], op.Event.Requests[1] = store.Subject{}, state.Digest{}
}

func wants(t testing.TB, op *store.Op, result state.Result, f state.Freshness) {
	t.Helper()
	if op.Err != nil || op.Outcome.Result != result || op.Outcome.Freshness != f {
		t.Errorf("ATC %d: %+v, %v; want result %d, freshness %d", op.Event.ATC, op.Outcome, op.Err, result, f)
	}
}

// once reports whether the operation consumed its ATC.
func once(op *store.Op) bool {
	return op.Outcome.Result == state.Accept && op.Outcome.Freshness != state.Repeated
}

func counter(t testing.TB, e state.Engine, base state.Key, period uint32) uint64 {
	t.Helper()
	binary.BigEndian.PutUint32(base[state.KeyBytes-4:], period)
	b := &state.Batch{Counters: []state.Counter{{Key: base}}}
	if err := e.Read(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	return b.Counters[0].Value
}
