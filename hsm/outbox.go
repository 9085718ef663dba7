package hsm

import (
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
)

// maxUnsentBytes bounds what waits to be written on one connection. One that
// reaches it does not read and gets no more calls.
const maxUnsentBytes = 1 << 20

// An outbox collects frames until they are written. Items go into the frame at
// its end while that has room.
type outbox struct {
	bytes []byte
	start int // of the open frame, which has items > 0
	items int
}

func (o *outbox) addItem(it *frame.Item) {
	if o.items == frame.MaxBatch {
		o.endFrame()
	}
	if o.items == 0 {
		o.bytes, o.start = frame.Begin(o.bytes)
	}
	o.bytes = frame.AppendItem(o.bytes, it)
	o.items++
}

func (o *outbox) addHealth(id uint64) {
	o.endFrame()
	o.bytes = frame.AppendHealth(o.bytes, id)
}

func (o *outbox) addSubject(id uint64, pan *cryptogram.PAN, psn cryptogram.PSN) {
	o.endFrame()
	o.bytes = frame.AppendSubject(o.bytes, id, pan, psn)
}

func (o *outbox) endFrame() {
	if o.items > 0 {
		frame.End(o.bytes, o.start, frame.TypeVerify, o.items)
		o.items = 0
	}
}

// take exchanges the whole frames for an empty buffer.
func (o *outbox) take(empty []byte) []byte {
	o.endFrame()
	full := o.bytes
	o.bytes = empty[:0]
	return full
}

func (o *outbox) reset() {
	o.bytes = o.bytes[:0]
	o.items = 0
}
