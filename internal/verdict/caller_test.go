package verdict

import (
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
)

// The worker keeps callers apart by the same hash as the state.
func TestCallNamesItsCaller(t *testing.T) {
	pan, err := cryptogram.ParsePAN("4761739001010010")
	if err != nil {
		t.Fatal(err)
	}
	ask := func(name string) uint32 {
		t.Helper()
		var c Case
		c.Call.Request.PAN = pan
		if err := c.remember(&Tap{Caller: name}); err != nil {
			t.Fatal(err)
		}
		if c.Call.Caller != c.Op.Event.Caller {
			t.Errorf("%s: the HSM is told another caller than the state", name)
		}
		return c.Call.Caller
	}
	if a, b := ask("acquirer"), ask("wallet"); a == 0 || a == b {
		t.Errorf("callers %d and %d", a, b)
	}
}
