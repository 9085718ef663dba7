package bench

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/phone"
)

// The key set of development mode that all taps use, and its published value.
const (
	keySet    = "visa-demo"
	issuerKey = "0123456789ABCDEFFEDCBA9876543210"
	profile   = "visa-cvn18" // four derivations, two operations: the dearest of the common ones
)

// cards is how many different cards tap in turn, each tap with a card key
// that the token has to derive anew.
const cards = 64

// A tap is one right transaction.
type tap struct {
	PAN     string `json:"pan"`
	PSN     string `json:"psn"`
	Field55 string `json:"field55"`
}

// makeTaps lets phones make transactions, as anybody would.
func makeTaps() ([]tap, error) {
	raw, err := hex.DecodeString(issuerKey)
	if err != nil {
		return nil, err
	}
	taps := make([]tap, cards)
	for i := range taps {
		if taps[i], err = makeTap([16]byte(raw), fmt.Sprintf("41111111111%05d", i)); err != nil {
			return nil, fmt.Errorf("making taps: %w", err)
		}
	}
	return taps, nil
}

func makeTap(issuer [16]byte, pan string) (tap, error) {
	dir, err := os.MkdirTemp("", "tapseal-bench-phone")
	if err != nil {
		return tap{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	card, err := phone.Provision(issuer, profile, pan, "01")
	if err != nil {
		return tap{}, err
	}
	if err := phone.Create(dir, []phone.Card{card}); err != nil {
		return tap{}, err
	}
	p, err := phone.Open(dir)
	if err != nil {
		return tap{}, err
	}
	_, t, err := p.Tap(profile, phone.Terminal{AmountMinor: 1299, Currency: 978, Country: 276, Time: time.Now(), UN: [4]byte{1, 2, 3, 4}})
	return tap{PAN: pan, PSN: "01", Field55: hex.EncodeToString(t.Field55)}, err
}

func encodeTaps(taps []tap) ([]byte, error) {
	b, err := json.Marshal(taps)
	return append(b, '\n'), err
}

// A load sends taps to the service and counts what comes back.
type load struct {
	client tapsealv1.CryptogramServiceClient
	taps   *supply
}

const (
	tapsInMessage = 64
	messagesAhead = 12 // 768 taps in flight: less than the service's bound for a stream
)

// stream sends taps on one stream until d is over or n are sent, and returns
// how many were answered VALID. Any other answer is an error.
func (l *load) stream(ctx context.Context, d time.Duration, n int) (valid int, took time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := l.client.VerifyCryptograms(ctx)
	if err != nil {
		return 0, 0, err
	}
	w := newWindow(messagesAhead * tapsInMessage)
	defer w.close()
	sent := make(chan error, 1)
	start := time.Now()
	go func() { sent <- l.send(s, w, d, n) }()
	for {
		m, err := s.Recv()
		if err != nil {
			took = time.Since(start)
			w.close()
			sendErr := <-sent
			if sendErr == nil && l.ended(err) {
				return valid, took, nil
			}
			return valid, took, errors.Join(sendErr, err)
		}
		for _, r := range m.GetResults() {
			if r.GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
				return valid, 0, fmt.Errorf("a right tap was answered %v %v", r.GetVerification(), r.GetError())
			}
			valid++
		}
		w.give(len(m.GetResults()))
	}
}

func (l *load) send(s tapsealv1.CryptogramService_VerifyCryptogramsClient, w *window, d time.Duration, n int) error {
	start := time.Now()
	for sent := 0; (n == 0 || sent < n) && (d == 0 || time.Since(start) < d); {
		if !w.take(tapsInMessage) {
			return nil // receiving has failed and says why
		}
		// A message must not change after Send.
		m := &tapsealv1.VerifyCryptogramsRequest{Taps: make([]*tapsealv1.Tap, 0, tapsInMessage)}
		values := make([]tapsealv1.Tap, tapsInMessage)
		fields := make([]tapsealv1.Tap_Field55, tapsInMessage)
		for i := range values {
			if !l.taps.take(&values[i], &fields[i]) {
				break // sooner than thought
			}
			m.Taps = append(m.Taps, &values[i])
		}
		sent += len(m.Taps)
		if len(m.Taps) == 0 {
			break
		}
		if err := s.Send(m); err != nil {
			return err
		}
		w.give(tapsInMessage - len(m.Taps))
	}
	return s.CloseSend()
}
