package server

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/observability"
	"github.com/tapseal/tapseal/internal/phone"
)

const (
	unknown = tapsealv1.Verdict_VERDICT_UNKNOWN

	fresh    = tapsealv1.Freshness_FRESHNESS_FRESH
	late     = tapsealv1.Freshness_FRESHNESS_LATE
	repeated = tapsealv1.Freshness_FRESHNESS_REPEATED
	replayed = tapsealv1.Freshness_FRESHNESS_REPLAYED
	nobody   = tapsealv1.Freshness_FRESHNESS_NOT_CHECKED
)

// replaying is a rig with replay protection as configurations have it that say
// nothing, or what policy says.
func replaying(policy string) func(*rig) {
	return func(r *rig) {
		text := r.issuer.assignments()
		from := strings.Index(text, "    replay:")
		to := strings.Index(text, "    keys:")
		r.write("assignments.yaml", text[:from]+policy+text[to:])
	}
}

// A cardholder has one card and taps it.
type cardholder struct {
	t    *testing.T
	card phone.Card
}

func newCardholder(t *testing.T, r *rig, pan string) *cardholder {
	t.Helper()
	key, err := hex.DecodeString(r.issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	card, err := phone.Provision([16]byte(key), "visa-cvn18", pan, "01")
	if err != nil {
		t.Fatal(err)
	}
	return &cardholder{t, card}
}

const testPAN = "1234567890123456"

// tap is a right transaction with a counter.
func (c *cardholder) tap(id string, atc uint16, change ...func(*phone.Terminal)) *tapsealv1.Tap {
	c.t.Helper()
	terminal := phone.Terminal{AmountMinor: 1299, Currency: 978, Country: 276, Time: time.Now(), UN: [4]byte{1, 2, byte(atc >> 8), byte(atc)}}
	for _, f := range change {
		f(&terminal)
	}
	made, err := c.card.Use(atc, terminal)
	if err != nil {
		c.t.Fatal(err)
	}
	psn := c.card.PSN
	return &tapsealv1.Tap{
		RequestId: strings.ReplaceAll(id, " ", "-"), Purpose: tapsealv1.Purpose_PURPOSE_AUTHORISE, Pan: c.card.PAN, Psn: &psn,
		ChipData: &tapsealv1.Tap_Field55{Field55: made.Field55},
	}
}

// ask verifies and compares verdict, freshness and reasons.
func (r *rig) ask(t *testing.T, tap *tapsealv1.Tap, v tapsealv1.Verdict, f tapsealv1.Freshness, reasons ...tapsealv1.Reason) *tapsealv1.Verification {
	t.Helper()
	got, err := r.verify(tap)
	if err != nil {
		t.Fatalf("%s: %v", tap.GetRequestId(), err)
	}
	if got.GetVerdict() != v || got.GetFreshness() != f || !slices.Equal(got.GetReasons(), reasons) {
		t.Fatalf("%s: %v %v %v, want %v %v %v", tap.GetRequestId(), got.GetVerdict(), got.GetFreshness(), got.GetReasons(), v, f, reasons)
	}
	if got.GetRepeated() != (v == valid && f == repeated) {
		t.Fatalf("%s: repeated is %v", tap.GetRequestId(), got.GetRepeated())
	}
	return got
}

func TestACryptogramIsAcceptedOnce(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	first := c.tap("first", 10)
	r.ask(t, first, valid, fresh)
	for range 3 { // a genuine retry is not a replay
		r.ask(t, first, valid, repeated)
	}
	again := c.tap("again", 10)
	r.ask(t, again, refused, replayed, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	r.ask(t, again, refused, replayed, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	// The same id with another content is another request.
	other := c.tap("first", 10, func(p *phone.Terminal) { p.AmountMinor = 1 })
	r.ask(t, other, refused, replayed, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	r.ask(t, c.tap("next", 12), valid, fresh)
	r.ask(t, c.tap("lost", 11), valid, late)
	r.ask(t, c.tap("lost again", 11), refused, replayed, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	r.ask(t, first, valid, repeated)

	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	r.startDaemon()
	r.dial()
	r.ask(t, first, valid, repeated) // over a restart
	r.ask(t, c.tap("after", 10), refused, replayed, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	r.ask(t, c.tap("onwards", 13), valid, fresh)

	last := r.records()
	rec := last[len(last)-1]
	if rec.Freshness != uint8(fresh) || rec.StateSequence == 0 || rec.Token == (audit.Token{}) {
		t.Errorf("the record of a decision lacks the state's part: %+v", rec)
	}
}

func TestTypeOfTheCryptogramChangesNothing(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	r.ask(t, c.tap("arqc", 10), valid, fresh)
	// No MAC covers 9F27: whoever replays can write what they like there.
	for id, cid := range map[string]byte{"tc": 0x40, "aac": 0x00} {
		tap := c.tap(id, 10)
		data := tap.GetField55()
		i := strings.Index(string(data), "\x9F\x27\x01")
		if i < 0 {
			data = append(slices.Clone(data), 0x9F, 0x27, 1, cid)
		} else {
			data = slices.Clone(data)
			data[i+3] = cid
		}
		tap.ChipData = &tapsealv1.Tap_Field55{Field55: data}
		r.ask(t, tap, refused, replayed, tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	}
}

func TestAdviceConsumesNothing(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	advice := func(id string, atc uint16) *tapsealv1.Tap {
		tap := c.tap(id, atc)
		tap.Purpose = tapsealv1.Purpose_PURPOSE_ADVICE
		return tap
	}
	if r.ask(t, advice("before", 10), valid, fresh).GetAcceptedBefore() {
		t.Error("an unknown cryptogram was accepted before")
	}
	r.ask(t, c.tap("authorise", 10), valid, fresh)
	for _, id := range []string{"after", "after", "once more"} {
		if !r.ask(t, advice(id, 10), valid, replayed).GetAcceptedBefore() {
			t.Error("an accepted cryptogram was not accepted before")
		}
	}
}

func TestOneResponseForAnAcceptedCryptogram(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	respond := func(tap *tapsealv1.Tap, csu ...byte) *tapsealv1.RespondResponse {
		t.Helper()
		out, err := r.client.Respond(context.Background(), &tapsealv1.RespondRequest{Tap: tap, Decision: &tapsealv1.RespondRequest_CardStatusUpdate{
			CardStatusUpdate: &tapsealv1.CardStatusUpdate{Csu: csu},
		}})
		if err != nil {
			t.Fatal(err)
		}
		v := out.GetVerification()
		if (len(out.GetArpc()) > 0) != (v.GetVerdict() == valid) || (len(out.GetIssuerAuthenticationData()) > 0) != (v.GetVerdict() == valid) {
			t.Fatalf("%v with a response of %d bytes", v.GetVerdict(), len(out.GetArpc()))
		}
		return out
	}
	wantRefused := func(out *tapsealv1.RespondResponse, why tapsealv1.Reason) {
		t.Helper()
		if v := out.GetVerification(); v.GetVerdict() != refused || !slices.Contains(v.GetReasons(), why) {
			t.Fatalf("%v %v, want %v", v.GetVerdict(), v.GetReasons(), why)
		}
	}
	tap := c.tap("a", 10)
	wantRefused(respond(tap, 0, 0x82, 0, 0), tapsealv1.Reason_REASON_NOT_ACCEPTED)
	r.ask(t, tap, valid, fresh) // the refused response has consumed nothing
	one := respond(tap, 0, 0x82, 0, 0)
	two := respond(tap, 0, 0x82, 0, 0)
	if string(one.GetArpc()) != string(two.GetArpc()) || one.GetVerification().GetRepeated() || !two.GetVerification().GetRepeated() {
		t.Error("a repeated response is another one, or is not marked")
	}
	wantRefused(respond(tap, 0, 0, 0, 0), tapsealv1.Reason_REASON_ALREADY_RESPONDED)
	wantRefused(respond(c.tap("b", 10), 0, 0x82, 0, 0), tapsealv1.Reason_REASON_NOT_ACCEPTED)
}

func TestGuessingIsExpensive(t *testing.T) {
	r := newRig(t, "visa", replaying("    limits: {token_failures: 3, backoff_sec: 3600}\n"))
	c, victim := newCardholder(t, r, testPAN), newCardholder(t, r, "1234567890123464")
	r.ask(t, c.tap("first", 10), valid, fresh)
	forge := func(id string) *tapsealv1.Tap { return forged(c.tap(id, 11), 3) }
	for range 4 { // one request, however often it is sent
		r.ask(t, forge("one"), refused, nobody, tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH)
	}
	for i := range 2 {
		r.ask(t, forge(fmt.Sprintf("more-%d", i)), refused, nobody, tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH)
	}
	// From here on right and wrong look the same.
	for _, tap := range []*tapsealv1.Tap{forge("guess"), c.tap("right", 11)} {
		v := r.ask(t, tap, unknown, nobody, tapsealv1.Reason_REASON_ATTEMPTS_LIMITED)
		if v.GetRetryAfterMs() == 0 || v.GetRetry() != tapsealv1.RetryClass_RETRY_CLASS_BACKOFF {
			t.Errorf("limited without a hint: %v", v)
		}
	}
	r.ask(t, c.tap("first", 10), valid, repeated) // what was accepted stays so
	r.ask(t, victim.tap("other token", 1), valid, fresh)
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	r.startDaemon()
	r.dial()
	r.ask(t, c.tap("after a restart", 12), unknown, nobody, tapsealv1.Reason_REASON_ATTEMPTS_LIMITED)
}

func TestStrictAndVelocity(t *testing.T) {
	r := newRig(t, "visa", replaying("    replay: {mode: strict, max_jump: 5, on_jump: refuse}\n    velocity: {window_sec: 3600, count: 3}\n"))
	c := newCardholder(t, r, testPAN)
	r.ask(t, c.tap("a", 10), valid, fresh)
	r.ask(t, c.tap("late", 9), refused, late, tapsealv1.Reason_REASON_ATC_LATE)
	r.ask(t, c.tap("far", 16), refused, fresh, tapsealv1.Reason_REASON_ATC_JUMP)
	r.ask(t, c.tap("b", 11), valid, fresh)
	r.ask(t, c.tap("c", 12), valid, fresh)
	r.ask(t, c.tap("d", 13), refused, fresh, tapsealv1.Reason_REASON_VELOCITY_COUNT)
	r.ask(t, c.tap("both", 19), refused, fresh, tapsealv1.Reason_REASON_ATC_JUMP, tapsealv1.Reason_REASON_VELOCITY_COUNT)
}

// TestDuplicatesInParallel sends each cryptogram eight times at once, on streams
// and by single calls.
func TestDuplicatesInParallel(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	const cryptograms, copies = 100, 8
	var mu sync.Mutex
	accepted := map[uint16]int{}
	var wg sync.WaitGroup
	for copyNumber := range copies {
		wg.Go(func() {
			for atc := uint16(1); atc <= cryptograms; atc++ {
				v, err := r.verify(c.tap(fmt.Sprintf("%d-%d", atc, copyNumber), atc))
				if err != nil {
					t.Error(err)
					return
				}
				switch {
				case v.GetVerdict() == valid:
					mu.Lock()
					accepted[atc]++
					mu.Unlock()
				case v.GetVerdict() != refused || v.GetFreshness() != replayed:
					t.Errorf("counter %d: %v %v %v", atc, v.GetVerdict(), v.GetFreshness(), v.GetReasons())
				}
			}
		})
	}
	wg.Wait()
	for atc := uint16(1); atc <= cryptograms; atc++ {
		if accepted[atc] != 1 {
			t.Errorf("counter %d was accepted %d times", atc, accepted[atc])
		}
	}
}

func TestPlaceIsChecked(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	for field, place := range map[string]*tapsealv1.Place{
		"place.channel":                {Channel: 6},
		"place.merchant_category_code": {MerchantCategoryCode: "12a4"},
		"place.terminal_type":          {TerminalType: []byte{1, 2}},
		"place.merchant_id":            {MerchantId: "two words"},
		"place.device_id":              {DeviceId: strings.Repeat("x", 65)},
	} {
		tap := c.tap("a", 1)
		tap.Place = place
		_, err := r.verify(tap)
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestAnOlderStateDoesNotStart restores a backup, and accepts it.
func TestAnOlderStateDoesNotStart(t *testing.T) {
	r := newRig(t, "visa", replaying(""))
	c := newCardholder(t, r, testPAN)
	r.ask(t, c.tap("a", 10), valid, fresh)
	end := func() {
		t.Helper()
		if err := r.end(); err != nil {
			t.Fatal(err)
		}
	}
	end()
	backup := filepath.Join(r.dir, "backup")
	if err := os.CopyFS(backup, os.DirFS(r.path("state"))); err != nil {
		t.Fatal(err)
	}
	r.startDaemon()
	r.dial()
	r.ask(t, c.tap("b", 11), valid, fresh)
	end()
	if err := os.RemoveAll(r.path("state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(backup, r.path("state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(r.path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := r.cfg
	if err := Run(context.Background(), cfg, Deps{Log: observability.NewLog(r.log)}); err == nil || !strings.Contains(err.Error(), "older than the journal") {
		t.Fatalf("a daemon on an older state: %v", err)
	}
	r.acceptOlderState(t, &cfg)
	r.startDaemon()
	r.dial()
	r.ask(t, c.tap("b again", 11), refused, tapsealv1.Freshness_FRESHNESS_CANNOT_TELL, tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	r.ask(t, c.tap("a", 10), valid, repeated) // what the state does know
	r.ask(t, c.tap("c", 60), refused, tapsealv1.Freshness_FRESHNESS_CANNOT_TELL, tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	r.ask(t, c.tap("d", 61), valid, fresh)
	stranger := newCardholder(t, r, "1234567890123464")
	r.ask(t, stranger.tap("today", 1), refused, tapsealv1.Freshness_FRESHNESS_CANNOT_TELL, tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	tomorrow := func(p *phone.Terminal) { p.Time = time.Now().AddDate(0, 0, 2) }
	r.ask(t, stranger.tap("later", 2, tomorrow), valid, fresh)
}

func (r *rig) acceptOlderState(t *testing.T, cfg *config.Daemon) {
	t.Helper()
	before, err := InspectState(context.Background(), cfg, observability.NewLog(r.log))
	if err != nil || !before.Older || before.Generation != 0 {
		t.Fatalf("before: %+v, %v", before, err)
	}
	after, err := AcceptState(context.Background(), cfg, Acceptance{Raise: 50, FloorDate: time.Now(), Reason: "restored the backup", Apply: true}, observability.NewLog(r.log))
	if err != nil || after.Older || after.Generation != 1 || after.Raise != 50 {
		t.Fatalf("after: %+v, %v", after, err)
	}
	var outcomes []audit.Outcome
	for rec, err := range audit.ReadDir(cfg.Journal.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Action == audit.ActionAcceptState {
			outcomes = append(outcomes, rec.Outcome)
		}
	}
	if !slices.Equal(outcomes, []audit.Outcome{audit.OutcomeIntended, audit.OutcomeDone}) {
		t.Errorf("the acceptance is recorded as %v", outcomes)
	}
}

// TestBackup copies the state while taps come, and starts from the copy.
func TestBackup(t *testing.T) {
	r := newRig(t, "visa", replaying(""), func(r *rig) {
		r.cfg.State.Backups = r.path("backups")
		if err := os.Mkdir(r.cfg.State.Backups, 0o700); err != nil {
			r.tb.Fatal(err)
		}
	})
	c := newCardholder(t, r, testPAN)
	r.ask(t, c.tap("a", 10), valid, fresh)
	operator := r.admin(t, "operator")
	ctx := context.Background()
	for _, name := range []string{"", "../up", "Upper", strings.Repeat("x", 65)} {
		_, err := operator.BackupState(ctx, &tapsealv1.BackupStateRequest{Name: name, Reason: "test"})
		wantInvalidArgument(t, err, "name")
	}
	out, err := operator.BackupState(ctx, &tapsealv1.BackupStateRequest{Name: "monday", Reason: "test"})
	if err != nil || out.GetPath() != filepath.Join(r.cfg.State.Backups, "monday") || out.GetSequence() == 0 {
		t.Fatalf("%v, %v", out, err)
	}
	if _, err = operator.BackupState(ctx, &tapsealv1.BackupStateRequest{Name: "monday", Reason: "test"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second one of the name: %v", err)
	}
	if st, err := operator.GetStatus(ctx, &tapsealv1.GetStatusRequest{}); err != nil || !st.GetState().GetReachable() || st.GetState().GetEngine() != "embedded" {
		t.Errorf("status: %v, %v", st.GetState(), err)
	}
	if err := r.end(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.path("state")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(out.GetPath(), r.path("state")); err != nil {
		t.Fatal(err)
	}
	r.startDaemon() // nothing came after the copy: it is not older than the journal
	r.dial()
	r.ask(t, c.tap("a", 10), valid, repeated)
}
