package state_test

import (
	"testing"

	"github.com/tapseal/tapseal/internal/state"
)

// A daemon is what a store does for one tap, without an engine: read, decide,
// write.
type daemon struct {
	event  state.Event
	policy state.Policy
	record state.Record
	buf    []byte
	taps   int
}

func newDaemon() *daemon {
	d := &daemon{event: tap(0), policy: state.DefaultPolicy()}
	d.event.Policy = &d.policy
	return d
}

func (d *daemon) tap() (state.Outcome, bool, error) {
	i, e := d.taps, &d.event
	d.taps++
	if e.ATC = uint16(i); e.ATC == 0 {
		d.buf = d.buf[:0] // the next card
	}
	if err := d.record.Decode(d.buf); err != nil {
		return state.Outcome{}, false, err
	}
	e.Requests[0][0], e.Requests[0][1], e.UN[0], e.UN[1] = byte(i), byte(i>>8)|1, byte(i), byte(i>>8)
	o, changed := state.Next(&d.record, e)
	d.buf = d.record.Append(d.buf[:0])
	return o, changed, nil
}

func BenchmarkNext(b *testing.B) {
	d := newDaemon()
	b.ReportAllocs()
	for range b.N {
		if o, changed, err := d.tap(); err != nil || o.Result != state.Accept || !changed {
			b.Fatalf("%+v, %v, %v", o, changed, err)
		}
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	d := newDaemon()
	if n := testing.AllocsPerRun(1000, func() {
		if o, _, err := d.tap(); err != nil || o.Result != state.Accept {
			t.Fatalf("%+v, %v", o, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a tap", n)
	}
}
