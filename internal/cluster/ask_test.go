package cluster

import (
	"context"
	"slices"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// try asks once.
func (d *Daemon) try(t *testing.T, x Transaction, id string) (*tapsealv1.Verification, error) {
	t.Helper()
	tap, err := x.tap()
	if err != nil {
		t.Fatal(err)
	}
	tap.RequestId, tap.TimeoutMs = id, tapTimeoutMS
	ctx, cancel := context.WithTimeout(t.Context(), answerWithin)
	defer cancel()
	out, err := d.client.VerifyCryptogram(ctx, &tapsealv1.VerifyCryptogramRequest{Tap: tap})
	return out.GetVerification(), err
}

// verify asks until there is an answer.
func (d *Daemon) verify(t *testing.T, x Transaction, id string) *tapsealv1.Verification {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		v, err := d.try(t, x, id)
		if err == nil && v.GetVerdict() != tapsealv1.Verdict_VERDICT_UNKNOWN {
			return v
		}
	}
	t.Fatalf("%s gave no answer in %v:\n%s", d.Name, patience, d.process.said())
	return nil
}

func (d *Daemon) mustAccept(t *testing.T, x Transaction, id string) {
	t.Helper()
	if v := d.verify(t, x, id); v.GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
		t.Errorf("%s: %s: %v %v, want VALID", d.Name, id, v.GetVerdict(), v.GetReasons())
	}
}

func (d *Daemon) mustRefuse(t *testing.T, x Transaction, id string, why tapsealv1.Reason) {
	t.Helper()
	v := d.verify(t, x, id)
	if v.GetVerdict() != tapsealv1.Verdict_VERDICT_INVALID || !slices.Contains(v.GetReasons(), why) {
		t.Errorf("%s: %s: %v %v, want INVALID, %v", d.Name, id, v.GetVerdict(), v.GetReasons(), why)
	}
}
