package supervisor

import (
	"fmt"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
)

// leastSilentTicks is how many looks without a new beat make a worker stuck,
// at least: on a busy machine a healthy process may be late.
const leastSilentTicks = 15

// A stuckWatch judges one process, once every BeatInterval. It counts its own
// looks, so that a supervisor that was itself held up blames nobody.
type stuckWatch struct {
	limit     time.Duration
	beats     uint64
	silent    int
	crossings uint64
	seen      int // beats in a row with the same overdue crossing
}

// look gives the reason to kill p, or nothing.
func (w *stuckWatch) look(p *process) string {
	b, beats := p.lastBeat()
	if beats == w.beats {
		w.silent++
		if w.silent >= max(leastSilentTicks, int(w.limit/worker.BeatInterval)) {
			return fmt.Sprintf("no beat for %d ms", w.silent*int(worker.BeatInterval/time.Millisecond))
		}
		return ""
	}
	w.beats, w.silent = beats, 0
	if b.BusyNS < int64(w.limit) || b.Crossings != w.crossings {
		w.crossings, w.seen = b.Crossings, 0
		if b.BusyNS >= int64(w.limit) {
			w.seen = 1
		}
		return ""
	}
	if w.seen++; w.seen < 2 {
		return ""
	}
	return fmt.Sprintf("in the module for %d ms", b.BusyNS/int64(time.Millisecond))
}
