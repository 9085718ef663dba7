package server

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
)

const (
	valid   = tapsealv1.Verdict_VERDICT_VALID
	refused = tapsealv1.Verdict_VERDICT_INVALID

	active    = tapsealv1.TokenStatus_TOKEN_STATUS_ACTIVE
	suspended = tapsealv1.TokenStatus_TOKEN_STATUS_SUSPENDED
	deleted   = tapsealv1.TokenStatus_TOKEN_STATUS_DELETED
	unknownTo = tapsealv1.TokenStatus_TOKEN_STATUS_UNSPECIFIED
)

func tokenOf(tap *tapsealv1.Tap) *tapsealv1.TokenName {
	return &tapsealv1.TokenName{Pan: tap.GetPan(), Psn: tap.GetPsn()}
}

func theToken(tap *tapsealv1.Tap) *tapsealv1.Target { return tokenTarget(tokenOf(tap)) }

func theDevice(id string) *tapsealv1.Target {
	return &tapsealv1.Target{What: &tapsealv1.Target_DeviceId{DeviceId: id}}
}

func theBIN(bins string) *tapsealv1.Target {
	return &tapsealv1.Target{What: &tapsealv1.Target_BinRange{BinRange: bins}}
}

func theKey(set string, version uint32) *tapsealv1.Target {
	return &tapsealv1.Target{What: &tapsealv1.Target_Key{Key: &tapsealv1.KeyName{KeySet: set, Version: version}}}
}

// an administrator acts in earnest, and fails the test if that does not work.
type administrator struct {
	t *testing.T
	c tapsealv1.AdminServiceClient
}

func (r *rig) administrator(t *testing.T, name string) administrator {
	return administrator{t, r.admin(t, name)}
}

func (a administrator) suspend(target *tapsealv1.Target) *tapsealv1.Effect {
	a.t.Helper()
	m, err := a.c.Suspend(context.Background(), &tapsealv1.SuspendRequest{Target: target, Reason: "test", DryRun: proto.Bool(false)})
	if err != nil {
		a.t.Fatal(err)
	}
	return m.GetEffect()
}

func (a administrator) resume(target *tapsealv1.Target) *tapsealv1.Effect {
	a.t.Helper()
	m, err := a.c.Resume(context.Background(), &tapsealv1.ResumeRequest{Target: target, Reason: "test", DryRun: proto.Bool(false)})
	if err != nil {
		a.t.Fatal(err)
	}
	return m.GetEffect()
}

func (a administrator) show(target *tapsealv1.Target) *tapsealv1.TokenState {
	a.t.Helper()
	m, err := a.c.Show(context.Background(), &tapsealv1.ShowRequest{Target: target})
	if err != nil {
		a.t.Fatal(err)
	}
	return m.GetState()
}

// wantRefused wants the one reason, and that the cryptogram was genuine all the
// same.
func (r *rig) wantRefused(t *testing.T, tap *tapsealv1.Tap, why tapsealv1.Reason) {
	t.Helper()
	v, err := r.verify(tap)
	if err != nil || v.GetVerdict() != refused || len(v.GetReasons()) != 1 || v.GetReasons()[0] != why {
		t.Fatalf("%v, %v: want %v", v, err, why)
	}
}

func wantEffect(t *testing.T, e *tapsealv1.Effect, applied bool, before, after tapsealv1.TokenStatus) {
	t.Helper()
	if e.GetApplied() != applied || e.GetBefore().GetStatus() != before || e.GetAfter().GetStatus() != after {
		t.Errorf("effect %v, want applied %t from %v to %v", e, applied, before, after)
	}
}

// TestLifeOfAToken goes from unknown to deleted, and asks for a verdict at each step.
func TestLifeOfAToken(t *testing.T) {
	r := newRig(t, "visa")
	tap := visaCase().tap(t, "life")
	operator, officer := r.administrator(t, "operator"), r.administrator(t, "officer")
	target := theToken(tap)
	if s := operator.show(target); s.GetStatus() != unknownTo || len(s.GetTokenRef()) != 16 {
		t.Errorf("to begin with: %v", s)
	}
	dry, err := operator.c.Suspend(context.Background(), &tapsealv1.SuspendRequest{Target: target, Reason: "test"})
	if err != nil {
		t.Fatal(err)
	}
	wantEffect(t, dry.GetEffect(), false, unknownTo, suspended)
	r.want(t, tap, valid, 0)
	wantEffect(t, operator.suspend(target), true, active, suspended)
	r.wantRefused(t, tap, tapsealv1.Reason_REASON_TOKEN_SUSPENDED)
	if s := r.administrator(t, "auditor").show(target); s.GetChangedBy() != "operator" || s.GetReason() != "test" || s.GetChangedAt() == nil ||
		s.GetAcceptedInWindow() != 1 || s.GetHighestAtc() == 0 {
		t.Errorf("suspended: %v", s)
	}
	wantEffect(t, operator.suspend(target), false, suspended, suspended)
	wantEffect(t, officer.resume(target), true, suspended, active)
	wantEffect(t, officer.resume(target), false, active, active)
	r.want(t, tap, valid, 0)
	gone, err := officer.c.Delete(context.Background(), &tapsealv1.DeleteRequest{Target: target, Reason: "test", DryRun: proto.Bool(false)})
	if err != nil {
		t.Fatal(err)
	}
	wantEffect(t, gone.GetEffect(), true, active, deleted)
	r.wantRefused(t, tap, tapsealv1.Reason_REASON_TOKEN_DELETED)
	_, err = officer.c.Resume(context.Background(), &tapsealv1.ResumeRequest{Target: target, Reason: "test", DryRun: proto.Bool(false)})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("resumed from deletion: %v", err)
	}
	r.stopQuietly(t)
	r.wantTokenActs(t, planted(t))
}

// wantTokenActs checks that each act on a token is on record, by what stands for
// the token, and that nothing on record shows more.
func (r *rig) wantTokenActs(t *testing.T, secrets []string) {
	t.Helper()
	var got []string
	for _, rec := range r.acts() {
		if rec.Action == audit.ActionReloadPolicy {
			continue
		}
		got = append(got, fmt.Sprint(rec.Action, " ", rec.Outcome, " ", rec.Principal))
		if len(rec.Subject) != 16 || rec.Reason != "test" {
			t.Errorf("record %+v", rec)
		}
		text, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if s := revealed(string(text), secrets); s != "" {
			t.Errorf("a record reveals something: %s", text)
		}
	}
	want := []string{
		"suspend intended operator", "suspend done operator", "resume intended security-officer", "resume done security-officer",
		"delete intended security-officer", "delete done security-officer",
	}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("acts %q", got)
	}
}

// TestEveryTargetStops: a device, a BIN range, a key and all versions of its set.
func TestEveryTargetStops(t *testing.T) {
	r := newRig(t, "visa")
	operator := r.administrator(t, "operator")
	tap := visaCase().tap(t, "stop")
	tap.Place = &tapsealv1.Place{DeviceId: "phone-1"}
	bin := tap.GetPan()[:6]
	for name, c := range map[string]struct {
		target *tapsealv1.Target
		why    tapsealv1.Reason
	}{
		"device":        {theDevice("phone-1"), tapsealv1.Reason_REASON_DEVICE_STOPPED},
		"bin":           {theBIN(bin), tapsealv1.Reason_REASON_BIN_STOPPED},
		"range":         {theBIN(bin + "-" + bin), tapsealv1.Reason_REASON_BIN_STOPPED},
		"key version":   {theKey("test", 1), tapsealv1.Reason_REASON_KEY_STOPPED},
		"every version": {theKey("test", 0), tapsealv1.Reason_REASON_KEY_STOPPED},
	} {
		r.want(t, tap, valid, 0)
		if e := operator.suspend(c.target); !e.GetApplied() || e.GetAfter().GetStatus() != suspended {
			t.Errorf("%s: %v", name, e)
		}
		r.wantRefused(t, tap, c.why)
		if s := operator.show(c.target); s.GetStatus() != suspended || s.GetChangedBy() != "operator" || s.GetTokenRef() != "" {
			t.Errorf("%s: %v", name, s)
		}
		if e := operator.suspend(c.target); e.GetApplied() {
			t.Errorf("%s twice: %v", name, e)
		}
		if e := operator.resume(c.target); !e.GetApplied() || e.GetAfter().GetStatus() != active {
			t.Errorf("%s: %v", name, e)
		}
	}
	r.want(t, tap, valid, 0)
	// Somebody else's stops are nothing to this tap.
	operator.suspend(theDevice("phone-2"))
	operator.suspend(theBIN("999999"))
	operator.suspend(theKey("test", 2))
	r.want(t, tap, valid, 0)
	stops, err := operator.c.ListStops(context.Background(), &tapsealv1.ListStopsRequest{})
	if err != nil || len(stops.GetStops()) != 2 || stops.GetStops()[0].GetTarget().GetBinRange() != "999999" ||
		stops.GetStops()[1].GetTarget().GetKey().GetVersion() != 2 || stops.GetStops()[0].GetState().GetReason() != "test" {
		t.Errorf("stops %v, %v", stops, err)
	}
	// A wider stop shows at what it covers.
	if s := operator.show(theBIN("99999912")); s.GetStatus() != suspended {
		t.Errorf("inside a stopped range: %v", s)
	}
	if s := operator.show(theBIN("999998-999999")); s.GetStatus() != active {
		t.Errorf("a range of which a part is stopped: %v", s)
	}
}

func TestRestriction(t *testing.T) {
	r := newRig(t, "visa")
	operator := r.administrator(t, "operator")
	tap := visaCase().tap(t, "bound")
	restrict := func(m *tapsealv1.Restriction) *tapsealv1.Effect {
		t.Helper()
		out, err := operator.c.Restrict(context.Background(), &tapsealv1.RestrictRequest{
			Token: tokenOf(tap), Restriction: m, Reason: "test", DryRun: proto.Bool(false),
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetEffect()
	}
	all := &tapsealv1.Restriction{
		DeviceId: "phone-1", Channels: []tapsealv1.Channel{tapsealv1.Channel_CHANNEL_CONTACTLESS_POS}, Currencies: []string{"978"},
		MerchantCategoryCodes: []string{"5411", "0742"}, MerchantIds: []string{"shop-1"}, TerminalTypes: []byte{0x22}, AmountCap: 5000,
	}
	e := restrict(all)
	if got := e.GetAfter().GetRestriction(); !e.GetApplied() || e.GetAfter().GetStatus() != active || got.GetDeviceId() != "bound" ||
		got.GetCurrencies()[0] != "978" || got.GetMerchantCategoryCodes()[1] != "0742" || len(got.GetMerchantIds()[0]) != 16 || got.GetAmountCap() != 5000 {
		t.Errorf("effect %v", e)
	}
	if e := restrict(all); e.GetApplied() {
		t.Errorf("the same once more: %v", e)
	}
	if v, err := r.verify(tap); err != nil || v.GetVerdict() != refused || len(v.GetReasons()) < 3 {
		t.Errorf("a tap from nowhere: %v, %v", v, err)
	}
	restrict(&tapsealv1.Restriction{DeviceId: "phone-1"})
	r.wantRefused(t, tap, tapsealv1.Reason_REASON_DEVICE_MISMATCH)
	tap.Place = &tapsealv1.Place{DeviceId: "phone-1"}
	r.want(t, tap, valid, 0)
	tap.Place = nil
	if e := restrict(nil); e.GetAfter().GetRestriction() != nil || e.GetBefore().GetRestriction() == nil {
		t.Errorf("lifted: %v", e)
	}
	r.want(t, tap, valid, 0)
}

func TestResetOfAWindow(t *testing.T) {
	r := newRig(t, "visa")
	officer := r.administrator(t, "officer")
	tap := visaCase().tap(t, "reset")
	reset := func(floor uint32) (*tapsealv1.ResetWindowResponse, error) {
		return officer.c.ResetWindow(context.Background(), &tapsealv1.ResetWindowRequest{
			Token: tokenOf(tap), FloorAtc: floor, Reason: "test", DryRun: proto.Bool(false),
		})
	}
	if _, err := reset(0); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown token: %v", err)
	}
	r.want(t, tap, valid, 0)
	highest := officer.show(theToken(tap)).GetHighestAtc()
	out, err := reset(highest)
	if err != nil || !out.GetEffect().GetApplied() || out.GetEffect().GetAfter().GetFloorAtc() != highest || out.GetEffect().GetAfter().GetHighestAtc() != 0 {
		t.Errorf("%v, %v", out, err)
	}
	r.wantRefused(t, tap, tapsealv1.Reason_REASON_ATC_UNDER_FLOOR)
	if _, err = reset(0); err != nil {
		t.Fatal(err)
	}
	r.want(t, tap, valid, 0)
	if _, err = reset(65_536); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a floor above every counter: %v", err)
	}
}

// TestBadTargets: each fault is named, and no digit of a PAN is in an error.
func TestBadTargets(t *testing.T) {
	r := newRig(t, "visa")
	operator := r.admin(t, "operator")
	pan := visaCase().tap(t, "x").GetPan()
	named := func(pan, psn string) *tapsealv1.Target {
		return tokenTarget(&tapsealv1.TokenName{Pan: pan, Psn: psn})
	}
	for name, c := range map[string]struct {
		target *tapsealv1.Target
		code   codes.Code
		field  string
	}{
		"nothing":         {nil, codes.InvalidArgument, "target:"},
		"empty":           {&tapsealv1.Target{}, codes.InvalidArgument, "target:"},
		"no pan":          {named("", ""), codes.InvalidArgument, "target.token.pan:"},
		"short pan":       {named(pan[:11], ""), codes.InvalidArgument, "target.token.pan:"},
		"pan with a gap":  {named(pan[:6]+" "+pan[6:], ""), codes.InvalidArgument, "target.token.pan:"},
		"long psn":        {named(pan, "001"), codes.InvalidArgument, "target.token.psn:"},
		"empty device":    {theDevice(""), codes.InvalidArgument, "target.device_id:"},
		"device of two":   {theDevice("a b"), codes.InvalidArgument, "target.device_id:"},
		"long device":     {theDevice(strings.Repeat("a", 65)), codes.InvalidArgument, "target.device_id:"},
		"short bin":       {theBIN("47617"), codes.InvalidArgument, "target.bin_range:"},
		"a pan as a bin":  {theBIN(pan), codes.InvalidArgument, "target.bin_range:"},
		"backward range":  {theBIN("476174-476173"), codes.InvalidArgument, "target.bin_range:"},
		"no key set":      {theKey("", 1), codes.InvalidArgument, "target.key.key_set:"},
		"key set in caps": {theKey("Test", 1), codes.InvalidArgument, "target.key.key_set:"},
		"unknown key set": {theKey("tset", 0), codes.NotFound, "target.key:"},
		"unknown version": {theKey("test", 9), codes.NotFound, "target.key:"},
	} {
		_, err := operator.Suspend(context.Background(), &tapsealv1.SuspendRequest{Target: c.target, Reason: "test", DryRun: proto.Bool(false)})
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.field) || revealed(err.Error(), planted(t)) != "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, reason := range map[string]string{"none": "", "long": strings.Repeat("a", 201), "two lines": "a\nb"} {
		_, err := operator.Suspend(context.Background(), &tapsealv1.SuspendRequest{Target: theDevice("a"), Reason: reason})
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "reason:") {
			t.Errorf("reason %s: %v", name, err)
		}
	}
	_, err := operator.Resume(context.Background(), &tapsealv1.ResumeRequest{Target: theDevice("never-seen"), Reason: "test"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("resume of what is not known: %v", err)
	}
	_, err = operator.Resume(context.Background(), &tapsealv1.ResumeRequest{Target: theBIN("476173"), Reason: "test"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("resume of what is not stopped: %v", err)
	}
	_, err = r.admin(t, "officer").Delete(context.Background(), &tapsealv1.DeleteRequest{Target: theBIN("476173"), Reason: "test"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("deletion of a range: %v", err)
	}
	r.stopQuietly(t)
	for _, rec := range r.acts() {
		if rec.Action != audit.ActionReloadPolicy {
			t.Errorf("on record: %+v", rec)
		}
	}
}

func TestBadRestrictions(t *testing.T) {
	many := make([]string, 17)
	for i := range many {
		many[i] = fmt.Sprintf("%03d", i+1)
	}
	for field, m := range map[string]*tapsealv1.Restriction{
		"restriction.device_id":                  {DeviceId: "a b"},
		"restriction.channels[0]":                {Channels: []tapsealv1.Channel{0}},
		"restriction.channels[1]":                {Channels: []tapsealv1.Channel{1, 1}},
		"restriction.currencies[0]":              {Currencies: []string{"EUR"}},
		"restriction.currencies[1]":              {Currencies: []string{"978", "000"}},
		"restriction.currencies:":                {Currencies: many},
		"restriction.merchant_category_codes[0]": {MerchantCategoryCodes: []string{"541"}},
		"restriction.merchant_ids[0]":            {MerchantIds: []string{""}},
		"restriction.merchant_ids[1]":            {MerchantIds: []string{"a", "a"}},
		"restriction.terminal_types[0]":          {TerminalTypes: []byte{0x2A}},
		"restriction.amount_cap":                 {AmountCap: 1_000_000_000_000},
	} {
		if _, err := readRestriction(m); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestWhoMayAct is the policy at work: by role, and by kind.
func TestWhoMayAct(t *testing.T) {
	r := newRig(t, "visa")
	target := theDevice("phone")
	for name, want := range map[string][4]bool{ // suspend, delete, show, list
		"operator": {true, false, true, true},
		"monitor":  {true, false, true, true}, // a workload with role operator
		"officer":  {true, true, true, true},
		"auditor":  {false, false, true, true},
		"client":   {},
		"nobody":   {},
	} {
		c, ctx := r.admin(t, name), context.Background()
		for i, err := range []error{
			second(c.Suspend(ctx, &tapsealv1.SuspendRequest{Target: target, Reason: "test"})),
			second(c.Delete(ctx, &tapsealv1.DeleteRequest{Target: target, Reason: "test"})),
			second(c.Show(ctx, &tapsealv1.ShowRequest{Target: target})),
			second(c.ListStops(ctx, &tapsealv1.ListStopsRequest{})),
		} {
			if (err == nil) != want[i] {
				t.Errorf("%s, call %d: %v", name, i, err)
			}
		}
	}
}

// TestUnrecordedActIsNotDone: the journal takes nothing.
func TestUnrecordedActIsNotDone(t *testing.T) {
	r := newRig(t, "visa")
	operator := r.administrator(t, "operator")
	tap := visaCase().tap(t, "unrecorded")
	r.want(t, tap, valid, 0)
	restore := limitFileSize(t)
	for name, target := range map[string]*tapsealv1.Target{"token": theToken(tap), "bin": theBIN(tap.GetPan()[:6])} {
		_, err := operator.c.Suspend(context.Background(), &tapsealv1.SuspendRequest{Target: target, Reason: "test", DryRun: proto.Bool(false)})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "was not done") {
			t.Errorf("%s: %v", name, err)
		}
	}
	restore()
	r.want(t, tap, valid, 0)
}

// TestStoppingWithoutTheHSM: only a token needs it, to be named.
func TestStoppingWithoutTheHSM(t *testing.T) {
	r := newRig(t, "visa")
	operator := r.administrator(t, "operator")
	r.stopWorker()
	_, err := operator.c.Suspend(context.Background(), &tapsealv1.SuspendRequest{Target: theToken(visaCase().tap(t, "x")), Reason: "test", DryRun: proto.Bool(false)})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "nothing was done") {
		t.Errorf("a token: %v", err)
	}
	for _, target := range []*tapsealv1.Target{theDevice("phone"), theBIN("476173"), theKey("test", 1)} {
		if e := operator.suspend(target); !e.GetApplied() {
			t.Errorf("%v: %v", target, e)
		}
	}
}
