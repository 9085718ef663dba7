package worker_test

import (
	"errors"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

// wantSubjects are those of an item, by software.
func wantSubjects(it *frame.Item, rotating bool) [2]keys.Subject {
	in := keys.NewSubjectInput(&it.Request.PAN, it.Request.PSN)
	one := workertest.OldSubjectKey.Subject(1, &in)
	if rotating {
		return [2]keys.Subject{workertest.NewSubjectKey.Subject(2, &in), one}
	}
	return [2]keys.Subject{one}
}

func hashing(rotating bool) func(*worker.Options) {
	return func(o *worker.Options) { workertest.WithSubjects(o.Manifest, rotating) }
}

// A comparison comes with its subjects, nothing else does.
func TestRepliesCarrySubjects(t *testing.T) {
	for _, rotating := range []bool{false, true} {
		c := serve(t, workertest.NewToken().Hashing(rotating), hashing(rotating)).dial(t)
		genuine := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
		wrong := workertest.Spoil(workertest.Item(workertest.VisaKey, cryptogram.VisaCVN10, 2), 5)
		inactive := workertest.Item(workertest.SuspendedKey, cryptogram.VisaCVN18, 3)
		got, err := c.Verify(genuine, wrong, inactive)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			it       frame.Item
			status   frame.Status
			subjects [2]keys.Subject
		}{
			{genuine, frame.StatusMatched, wantSubjects(&genuine, rotating)},
			{wrong, frame.StatusMismatched, wantSubjects(&wrong, rotating)},
			{inactive, frame.StatusKeyInactive, [2]keys.Subject{}},
		} {
			if r := got[tc.it.ID]; r.Status != tc.status || r.Subjects != tc.subjects {
				t.Errorf("item %d: status %x, subjects right %v", tc.it.ID, r.Status, r.Subjects == tc.subjects)
			}
		}
		r, err := c.Subject(9, &genuine.Request.PAN, genuine.Request.PSN)
		if err != nil || r.Status != frame.StatusMatched || r.Subjects != wantSubjects(&genuine, rotating) {
			t.Errorf("asked for alone: status %x, error %v", r.Status, err)
		}
	}
}

// The key table tells the uses, and a key of one use serves no other.
func TestSubjectKeyIsBound(t *testing.T) {
	c := serve(t, workertest.NewToken().Hashing(true), hashing(true)).dial(t)
	uses := map[keys.ID]keys.Use{}
	for _, e := range c.Keys {
		uses[e.ID] = e.Use
	}
	if len(uses) != 5 || uses[workertest.NewSubjectKey.ID()] != keys.UseSubjectHash || uses[workertest.VisaKey.ID()] != keys.UseIssuerAC {
		t.Errorf("uses %v", uses)
	}
	it := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	it.Key = workertest.NewSubjectKey.ID()
	if got, err := c.Verify(it); err != nil || got[1].Status != frame.StatusNotBound {
		t.Errorf("a subject key verified: status %x, error %v", got[1].Status, err)
	}
	c = serve(t, workertest.NewToken(), nil).dial(t)
	if r, err := c.Subject(1, &it.Request.PAN, it.Request.PSN); err != nil || r.Status != frame.StatusKeyUnknown {
		t.Errorf("an issuer key hashed: status %x, error %v", r.Status, err)
	}
}

// A token that does not hash, or that fails, gives no verdict.
func TestNoVerdictWithoutItsSubject(t *testing.T) {
	token := workertest.NewToken().Hashing(true)
	token.Subjects = token.Subjects[:1] // forgets the previous key
	f := serve(t, token, hashing(true))
	c := f.dial(t)
	it := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	if got, err := c.Verify(it); err != nil || got[1].Status != frame.StatusTokenFailure {
		t.Errorf("status %x, error %v", got[1].Status, err)
	}
	if r, err := c.Subject(1, &it.Request.PAN, it.Request.PSN); err != nil || r.Status != frame.StatusTokenFailure {
		t.Errorf("alone: status %x, error %v", r.Status, err)
	}
	token.Before = func() error { return errors.New("CKR_DEVICE_ERROR") }
	if r, err := c.Subject(2, &it.Request.PAN, it.Request.PSN); err != nil || r.Status != frame.StatusTokenFailure {
		t.Errorf("a failing token: status %x, error %v", r.Status, err)
	}
}

// A worker without its subject keys is not healthy, whatever else it proves.
func TestHealthProvesSubjectKeys(t *testing.T) {
	token := workertest.NewToken().Hashing(true)
	c := serve(t, token, hashing(true)).dial(t)
	if s, err := c.Health(1); err != nil || s != frame.StatusMatched {
		t.Fatalf("status %x, error %v", s, err)
	}
	token.Subjects = token.Subjects[:1]
	if s, err := c.Health(2); err != nil || s != frame.StatusKeyUnproven {
		t.Errorf("status %x, error %v", s, err)
	}
}
