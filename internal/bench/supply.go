package bench

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/phone"
)

// tappers are the cards that tap in turn under load. A cryptogram is accepted
// once, so every tap is a new one.
const tappers = 4096

// A supply has taps that nobody has sent yet. They are made before a measurement
// begins: phones do not run on the service's machine.
type supply struct {
	cards []phone.Card
	psn   string
	made  [][]byte // field 55, of card i mod tappers
	first int64    // number of made[0]
	sent  atomic.Int64
}

func newSupply() (*supply, error) {
	raw, err := hex.DecodeString(issuerKey)
	if err != nil {
		return nil, err
	}
	s := &supply{cards: make([]phone.Card, tappers), psn: "01"}
	for i := range s.cards {
		if s.cards[i], err = phone.Provision([16]byte(raw), profile, fmt.Sprintf("41111111111%05d", i), s.psn); err != nil {
			return nil, fmt.Errorf("making taps: %w", err)
		}
	}
	return s, nil
}

// stock makes the next n taps. Nobody may take any meanwhile.
func (s *supply) stock(ctx context.Context, n int) error {
	s.first = s.sent.Load()
	s.made = make([][]byte, n)
	const makers = 2
	errs := make([]error, makers)
	var wg sync.WaitGroup
	for m := range makers {
		wg.Go(func() {
			for i := m; i < n && errs[m] == nil && ctx.Err() == nil; i += makers {
				s.made[i], errs[m] = s.make(s.first + int64(i))
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("making taps: %w", err)
		}
	}
	return ctx.Err()
}

func (s *supply) make(number int64) ([]byte, error) {
	atc := number/tappers + 1
	if atc > 0xFFFF {
		return nil, fmt.Errorf("%d taps are as many as %d cards can make", number, tappers)
	}
	terminal := phone.Terminal{AmountMinor: 1299, Currency: 978, Country: 276, Time: time.Now()}
	binary.BigEndian.PutUint32(terminal.UN[:], uint32(number)) //nolint:gosec // any number does
	tap, err := s.cards[number%tappers].Use(uint16(atc), terminal)
	return tap.Field55, err
}

// take gives the next tap in the memory of t and f, or false when all are sent.
func (s *supply) take(t *tapsealv1.Tap, f *tapsealv1.Tap_Field55) bool {
	number := s.sent.Add(1) - 1
	i := number - s.first
	if i >= int64(len(s.made)) {
		s.sent.Add(-1)
		return false
	}
	f.Field55 = s.made[i]
	t.RequestId = "b" + strconv.FormatInt(number, 10)
	t.Purpose = tapsealv1.Purpose_PURPOSE_AUTHORISE
	t.Pan, t.Psn = s.cards[number%tappers].PAN, &s.psn
	t.ChipData, t.TimeoutMs = f, 10_000
	return true
}
