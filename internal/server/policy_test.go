package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/config"
)

// Texts of the development policy that tests change.
const (
	wideKeySets = `    key_sets: "*"
    limits:`
	otherKeySets = `    key_sets: [other]
    limits:`
	wideLimits  = "{taps_per_second: 1000000, burst: 1000000, taps_in_flight: 1000000, streams: 10000}"
	callerFirst = "  - name: developer\n    kind: workload\n    identities: [\"" + callerURI + "\"]"
	callerMoved = "  - name: developer\n    kind: workload\n    identities: [\"spiffe://test/moved\"]"
)

// reloadNow has the daemon read the policy, as SIGHUP does, and waits until it did.
func (r *rig) reloadNow(t *testing.T) {
	t.Helper()
	before := r.policyLoads(t)
	r.reload <- struct{}{}
	r.eventually(t, "the reload is over", func() bool { return r.policyLoads(t) == before+1 })
}

func (r *rig) policyLoads(t *testing.T) (n int) {
	t.Helper()
	for _, line := range strings.Split(r.log.String(), "\n") {
		if strings.Contains(line, `"policy in force"`) || strings.Contains(line, `"the policy stays as it is"`) {
			n++
		}
	}
	return n
}

func one(t *testing.T, s tapsealv1.CryptogramService_VerifyCryptogramsClient, tap *tapsealv1.Tap) *tapsealv1.TapResult {
	t.Helper()
	if err := s.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: []*tapsealv1.Tap{tap}}); err != nil {
		t.Fatal(err)
	}
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m.GetResults()[0]
}

// TestRunningStreamFollowsThePolicy changes rights under one open stream.
func TestRunningStreamFollowsThePolicy(t *testing.T) {
	r := newRig(t, "visa")
	good := visaCase().tap(t, "p")
	s, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if one(t, s, good).GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
		t.Fatal("not VALID to begin with")
	}
	asked := r.metric(t, `tapseal_hsm_answers_total{answer="matched"}`)
	r.writePolicy(testPeople(), wideKeySets, otherKeySets)
	r.reloadNow(t)
	if e := one(t, s, good).GetError(); codes.Code(e.GetCode()) != codes.PermissionDenied || revealed(e.GetMessage(), planted(t)) != "" {
		t.Errorf("without a right to the key set: %v", e)
	}
	if _, err := r.verify(good); status.Code(err) != codes.PermissionDenied {
		t.Errorf("unary: %v", err)
	}
	req, _, _ := visaCase().respondRequest(t, good)
	if err := r.respondError(req); status.Code(err) != codes.PermissionDenied {
		t.Errorf("respond: %v", err)
	}
	if now := r.metric(t, `tapseal_hsm_answers_total{answer="matched"}`); now != asked {
		t.Errorf("the HSM was asked for a refused tap")
	}
	// A typo changes nothing: the policy with the other key set stays.
	r.writePolicy(testPeople(), "roles: [caller]", "roles: [callers]")
	r.reloadNow(t)
	if e := one(t, s, good).GetError(); codes.Code(e.GetCode()) != codes.PermissionDenied {
		t.Errorf("after a typo: %v", e)
	}
	r.writePolicy(testPeople())
	r.reloadNow(t)
	if one(t, s, good).GetVerification().GetVerdict() != tapsealv1.Verdict_VERDICT_VALID {
		t.Error("the right did not come back")
	}
	// Whoever is not in the policy any more loses the stream, also an idle one.
	r.writePolicy(testPeople(), callerFirst, callerMoved)
	r.reloadNow(t)
	if _, err := s.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("stream ended with %v", err)
	}
	if _, err := r.verify(good); status.Code(err) != codes.Unauthenticated {
		t.Errorf("unary of a stranger: %v", err)
	}
	r.stopQuietly(t)
	r.wantActs(t, "start", 4, 1)
}

// wantActs counts acts on record: each has an intent and then an outcome.
func (r *rig) wantActs(t *testing.T, firstReason string, done, failed int) {
	t.Helper()
	open, n := map[string]bool{}, map[audit.Outcome]int{}
	for rec, err := range audit.ReadDir(r.cfg.Journal.Dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Kind != audit.KindAdministration || rec.Outcome == audit.OutcomeRefused {
			continue
		}
		if len(open) == 0 && len(n) == 0 && rec.Reason != firstReason {
			t.Errorf("first act %+v", rec)
		}
		n[rec.Outcome]++
		if intended := rec.Outcome == audit.OutcomeIntended; intended == open[rec.RequestID] {
			t.Errorf("out of order: %+v", rec)
		} else {
			open[rec.RequestID] = intended
		}
	}
	if n[audit.OutcomeDone] != done || n[audit.OutcomeFailed] != failed || n[audit.OutcomeIntended] != done+failed {
		t.Errorf("acts %v, want %d done and %d failed", n, done, failed)
	}
}

func TestLimitsOfACaller(t *testing.T) {
	r := newRig(t, "visa", func(r *rig) {
		r.writePolicy(testPeople(), wideLimits, "{taps_per_second: 1, burst: 3, taps_in_flight: 10, streams: 1}")
	})
	good := visaCase().tap(t, "l")
	s, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	var taps []*tapsealv1.Tap
	for i := range 5 {
		tap, _ := proto.Clone(good).(*tapsealv1.Tap)
		tap.RequestId = fmt.Sprint("l", i)
		taps = append(taps, tap)
	}
	if err := s.Send(&tapsealv1.VerifyCryptogramsRequest{Taps: taps}); err != nil {
		t.Fatal(err)
	}
	valid, limited := 0, 0
	for valid+limited < 5 {
		m, err := s.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, res := range m.GetResults() {
			if e := res.GetError(); e != nil {
				limited++
				if codes.Code(e.GetCode()) != codes.ResourceExhausted || e.GetRetryAfterMs() == 0 || e.GetRetryAfterMs() > 1000 {
					t.Errorf("refusal %v", e)
				}
			} else {
				valid++
			}
		}
	}
	if valid != 3 || limited != 2 {
		t.Errorf("%d valid, %d limited", valid, limited)
	}
	_, err = r.verify(good)
	wantRetry(t, err)
	second, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_, err = second.Recv()
	wantRetry(t, err)
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("recv: %v", err)
	}
	third, err := r.client.VerifyCryptograms(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	_ = third.CloseSend()
	if _, err := third.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("a stream after one ended: %v", err)
	}
}

func wantRetry(t *testing.T, err error) {
	t.Helper()
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok && s.Code() == codes.ResourceExhausted && info.GetRetryDelay().AsDuration() > 0 {
			return
		}
	}
	t.Errorf("got %v with %v, want RESOURCE_EXHAUSTED with a delay", err, s.Details())
}

func TestStartNeedsAWholePolicy(t *testing.T) {
	for name, c := range map[string]struct {
		changes []string
		want    string
	}{
		"typo":      {[]string{"roles: [caller]", "roles: [callers]"}, `unknown role "callers"`},
		"no row":    {[]string{"      - tapseal.v1.AdminService/RecycleWorkers\n", ""}, "no row for tapseal.v1.AdminService/RecycleWorkers"},
		"forbidden": {[]string{"roles: [security-officer]", "roles: [security-officer, key-manager]"}, "must not be"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{tb: t, dir: t.TempDir()}
			writeCertificates(t, r.dir)
			r.writePolicy(testPeople(), c.changes...)
			r.write("assignments.yaml", testIssuers()["visa"].assignments())
			cfg := config.Daemon{
				Listen: "127.0.0.1:0", Policy: r.path("policy.yaml"), Assignments: r.path("assignments.yaml"),
				TLS:   config.TLS{Certificate: r.path("server.crt"), Key: r.path("server.key"), ClientCA: r.path("ca.crt")},
				Admin: config.Listener{Listen: "127.0.0.1:0", ClientCA: r.path("ca.crt")},
				HSM:   config.HSM{SocketDir: r.dir}, Journal: config.Journal{Dir: r.path("journal")}, State: config.State{Dir: r.path("state")},
			}
			if err := Run(context.Background(), cfg, Deps{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("start: %v, want %q", err, c.want)
			}
		})
	}
}

func (r *rig) admin(t *testing.T, name string) tapsealv1.AdminServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(r.address.Admin.String(), grpc.WithTransportCredentials(r.clientTLS(name)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return tapsealv1.NewAdminServiceClient(conn)
}

func TestAdministration(t *testing.T) {
	r := newRig(t, "visa")
	ctx := context.Background()
	officer, operator := r.admin(t, "officer"), r.admin(t, "operator")
	st, err := operator.GetStatus(ctx, &tapsealv1.GetStatusRequest{})
	if err != nil || !st.GetReady() || st.GetHsm().GetConnections() == 0 || len(st.GetPolicyDigest()) != 32 {
		t.Fatalf("status %v, %v", st, err)
	}
	list, err := operator.ListKeys(ctx, &tapsealv1.ListKeysRequest{KeySet: "subjects"})
	if err != nil || len(list.GetKeys()) != 1 || list.GetKeys()[0].GetUse() != "subject-hash" {
		t.Fatalf("subject keys %v, %v", list, err)
	}
	list, err = operator.ListKeys(ctx, &tapsealv1.ListKeysRequest{PageSize: 1, KeySet: "test"})
	if err != nil || len(list.GetKeys()) != 1 || list.GetKeys()[0].GetVersion() != 1 || list.GetNextPageToken() == "" {
		t.Fatalf("keys %v, %v", list, err)
	}
	list, err = operator.ListKeys(ctx, &tapsealv1.ListKeysRequest{PageSize: 1, PageToken: list.GetNextPageToken(), KeySet: "test"})
	if err != nil || len(list.GetKeys()) != 1 || list.GetKeys()[0].GetState() != tapsealv1.KeyState_KEY_STATE_SUSPENDED || list.GetNextPageToken() != "" ||
		list.GetKeys()[0].GetUse() != "issuer-ac" {
		t.Fatalf("second page %v, %v", list, err)
	}
	_, err = operator.ListKeys(ctx, &tapsealv1.ListKeysRequest{PageToken: "%"})
	wantInvalidArgument(t, err, "page_token")
	_, err = operator.RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{})
	wantInvalidArgument(t, err, "reason")
	if _, err = operator.RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{Reason: "test"}); status.Code(err) != codes.Unavailable {
		t.Errorf("recycle without a supervisor: %v", err)
	}
	for name, err := range map[string]error{
		"operator reloads": second(operator.ReloadPolicy(ctx, &tapsealv1.ReloadPolicyRequest{Reason: "x"})),
		"officer recycles": second(officer.RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{Reason: "x"})),
		"auditor recycles": second(r.admin(t, "auditor").RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{Reason: "x"})),
		"machine recycles": second(r.admin(t, "monitor").RecycleWorkers(ctx, &tapsealv1.RecycleWorkersRequest{Reason: "x"})),
		"caller asks":      second(r.admin(t, "client").GetStatus(ctx, &tapsealv1.GetStatusRequest{})),
	} {
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.writePolicy(testPeople(), wideKeySets, otherKeySets)
	dry, err := officer.ReloadPolicy(ctx, &tapsealv1.ReloadPolicyRequest{Reason: "look"})
	if err != nil || dry.GetApplied() || len(dry.GetChanges()) == 0 || bytes.Equal(dry.GetBeforeDigest(), dry.GetAfterDigest()) {
		t.Fatalf("dry run %v, %v", dry, err)
	}
	r.want(t, visaCase().tap(t, "a"), tapsealv1.Verdict_VERDICT_VALID, 0)
	reload := &tapsealv1.ReloadPolicyRequest{Reason: "act", DryRun: proto.Bool(false), ReviewedDigest: make([]byte, len(authz.Digest{}))}
	if _, err := officer.ReloadPolicy(ctx, reload); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("another file than the reviewed one: %v", err)
	}
	reload.ReviewedDigest = dry.GetAfterDigest()
	if done, err := officer.ReloadPolicy(ctx, reload); err != nil || !done.GetApplied() {
		t.Errorf("reload %v, %v", done, err)
	}
	if _, err := r.verify(visaCase().tap(t, "a")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after the reload: %v", err)
	}
	// No record, no act.
	r.writePolicy(testPeople())
	restore := limitFileSize(t)
	reload.ReviewedDigest = st.GetPolicyDigest()
	_, err = officer.ReloadPolicy(ctx, reload)
	restore()
	if status.Code(err) != codes.Unavailable {
		t.Errorf("reload without a record: %v", err)
	}
	if _, err := r.verify(visaCase().tap(t, "a")); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the policy changed without a record: %v", err)
	}
	r.stopQuietly(t)
	r.wantActs(t, "start", 3, 2)
}

func second[T any](_ T, err error) error { return err }

// BenchmarkAuthorise is what the policy adds to a tap: principal, key set and
// the caller's limits.
func BenchmarkAuthorise(b *testing.B) {
	dir := b.TempDir()
	r := &rig{tb: b, dir: dir}
	r.writePolicy(testPeople())
	live := authz.NewLive()
	if _, err := live.Load(r.path("policy.yaml")); err != nil {
		b.Fatal(err)
	}
	id := &identity{uri: callerURI, ends: time.Now().Add(time.Hour), changes: new(atomic.Uint64)}
	id.lookedAt.Store(time.Now().Add(time.Hour).UnixNano())
	c := &caller{id: id, view: live.Caller(callerURI), method: authz.MethodVerifyCryptogram}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		who, err := c.principal(now)
		if err != nil || who.Admit(now, 1).Taps != 1 || !who.Allows(c.method, "test") {
			now = now.Add(time.Second)
			continue
		}
		who.Release(1)
	}
}
