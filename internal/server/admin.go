package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/authz"
)

const (
	supervisorWithin = 2 * time.Second
	maxReasonBytes   = 200
	defaultKeysPage  = 1000
	maxKeysPage      = 5000
)

// administration is tapseal.v1.AdminService.
type administration struct {
	tapsealv1.UnimplementedAdminServiceServer
	e       *engine
	keeper  *keeper
	sockets string // directory of the supervisor's socket
	version string
	started time.Time
	ends    func() time.Time
	state   *engineDoor
	backups string       // directory; empty is none
	watches atomic.Int32 // events that are followed now
}

// GetStatus says how things are, also when they are bad.
func (a *administration) GetStatus(ctx context.Context, _ *tapsealv1.GetStatusRequest) (*tapsealv1.GetStatusResponse, error) {
	out := &tapsealv1.GetStatusResponse{
		Version: a.version, StartedAt: timestamppb.New(a.started),
		PolicyLoadedAt:       timestamppb.New(a.keeper.live.Since()),
		Hsm:                  a.hsmStatus(ctx),
		Journal:              &tapsealv1.JournalStatus{LastSequence: a.e.journal.Stats().LastSequence, Writable: !a.e.journalFailing()},
		CertificateExpiresAt: timestamppb.New(a.ends()),
		TapsInFlight:         uint32(a.e.gate.inFlight()), //nolint:gosec // bounded by the configuration
		State:                a.stateStatus(),
	}
	digest := a.keeper.live.Policy().Digest()
	out.PolicyDigest = digest[:]
	out.NotReadyReason = a.notReady(out)
	out.Ready = out.GetNotReadyReason() == ""
	return out, nil
}

func (a *administration) notReady(s *tapsealv1.GetStatusResponse) string {
	switch {
	case isClosed(a.e.draining):
		return "the service is shutting down"
	case s.GetHsm().GetConnections() == 0:
		return "no HSM worker is connected"
	case !s.GetJournal().GetWritable():
		return errJournal.Error()
	case !s.GetState().GetReachable():
		return errState.Error()
	}
	return ""
}

func (a *administration) hsmStatus(ctx context.Context) *tapsealv1.HsmStatus {
	out := &tapsealv1.HsmStatus{Connections: uint32(a.e.pool.Stats().Connections)} //nolint:gosec // a few
	ctx, cancel := context.WithTimeout(ctx, supervisorWithin)
	defer cancel()
	s, err := supervisor.QueryStatus(ctx, a.sockets)
	if err != nil {
		out.Hint = "the supervisor did not answer: is tapseal-hsm running?"
		return out
	}
	out.Login, out.Hint = tapsealv1.LoginState_LOGIN_STATE_OK, s.Hint
	if s.Login != supervisor.LoginOK {
		out.Login = tapsealv1.LoginState_LOGIN_STATE_STOPPED
	}
	for i := range s.Workers {
		out.Workers = append(out.Workers, workerStatus(&s.Workers[i]))
	}
	return out
}

func workerStatus(w *supervisor.WorkerStatus) *tapsealv1.WorkerStatus {
	out := &tapsealv1.WorkerStatus{
		Slot: uint32(max(w.Slot, 0)), Served: w.Served, ServedTotal: w.ServedTotal, ResidentBytes: w.ResidentBytes, //nolint:gosec // a few
		AgeSeconds: uint64(max(w.AgeSeconds, 0)), Restarts: w.Restarts, Recycles: w.Recycles, LastError: w.LastError, //nolint:gosec // not negative
	}
	switch w.State {
	case "starting":
		out.State = tapsealv1.WorkerState_WORKER_STATE_STARTING
	case "serving":
		out.State = tapsealv1.WorkerState_WORKER_STATE_SERVING
	case "draining":
		out.State = tapsealv1.WorkerState_WORKER_STATE_DRAINING
	case "stopped":
		out.State = tapsealv1.WorkerState_WORKER_STATE_STOPPED
	}
	if at, err := time.Parse(time.RFC3339, w.LastErrorAt); err == nil {
		out.LastErrorAt = timestamppb.New(at)
	}
	return out
}

// ListKeys lists a page of what the workers hold.
func (a *administration) ListKeys(_ context.Context, m *tapsealv1.ListKeysRequest) (*tapsealv1.ListKeysResponse, error) {
	size := int(min(m.GetPageSize(), maxKeysPage))
	if size == 0 {
		size = defaultKeysPage
	}
	after, err := readPageToken(m.GetPageToken())
	if err != nil {
		return nil, invalid(err)
	}
	out := &tapsealv1.ListKeysResponse{}
	var last hsm.NamedKey
	for _, k := range a.e.pool.Keys() {
		switch {
		case m.GetKeySet() != "" && k.Set != m.GetKeySet():
			continue
		case !after.before(k):
			continue
		case len(out.GetKeys()) == size:
			out.NextPageToken = pageToken(last)
			return out, nil
		}
		out.Keys = append(out.Keys, protoKey(k))
		last = k
	}
	return out, nil
}

func protoKey(k hsm.NamedKey) *tapsealv1.Key {
	out := &tapsealv1.Key{KeySet: k.Set, Version: k.Version, Id: k.ID[:], State: tapsealv1.KeyState(k.State), Use: k.Use.String()}
	for _, id := range k.Profiles {
		if p, ok := cryptogram.LookupProfile(id); ok {
			out.Profiles = append(out.Profiles, p.Name)
		}
	}
	return out
}

// A position is the last key of a page.
type position struct {
	set     string
	version uint32
}

func (p position) before(k hsm.NamedKey) bool {
	return k.Set > p.set || k.Set == p.set && k.Version > p.version
}

func pageToken(k hsm.NamedKey) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s/%d", k.Set, k.Version))
}

var errPageToken = errors.New("page_token: is not one of this service's")

func readPageToken(token string) (p position, err error) {
	if token == "" {
		return p, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return p, errPageToken
	}
	set, number, _ := strings.Cut(string(text), "/")
	version, err := strconv.ParseUint(number, 10, 32)
	if err != nil || set == "" {
		return p, errPageToken
	}
	return position{set, uint32(version)}, nil
}

// RecycleWorkers asks the supervisor for new workers.
func (a *administration) RecycleWorkers(ctx context.Context, m *tapsealv1.RecycleWorkersRequest) (*tapsealv1.RecycleWorkersResponse, error) {
	r, err := a.record(ctx, m.GetReason())
	if err != nil {
		return nil, err
	}
	r.Action = audit.ActionRecycleWorkers
	err = act(ctx, a.e.journal, r, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, supervisorWithin)
		defer cancel()
		return "the supervisor has begun", supervisor.QueryRecycle(ctx, a.sockets)
	})
	switch {
	case err == nil:
	case wasDone(err):
		a.e.log.Error("workers are recycled, but that is not recorded", "error", err.Error())
		return nil, actError(err)
	default:
		a.e.log.Warn("workers were not recycled", "error", err.Error())
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &tapsealv1.RecycleWorkersResponse{}, nil
}

// ReloadPolicy reads the policy file again, and unless it is a dry run puts
// exactly the reviewed one in force.
func (a *administration) ReloadPolicy(ctx context.Context, m *tapsealv1.ReloadPolicyRequest) (*tapsealv1.ReloadPolicyResponse, error) {
	r, err := a.record(ctx, m.GetReason())
	if err != nil {
		return nil, err
	}
	live, file := a.keeper.live, a.keeper.file
	var change authz.Change
	if m.DryRun == nil || m.GetDryRun() {
		r.Action = audit.ActionTryPolicy
		err = act(ctx, a.e.journal, r, func(context.Context) (string, error) {
			var err error
			change, err = live.Try(file)
			return told(&change), err
		})
	} else {
		if len(m.GetReviewedDigest()) != len(authz.Digest{}) {
			return nil, status.Error(codes.InvalidArgument, "reviewed_digest: must have 32 bytes")
		}
		reviewed := authz.Digest(m.GetReviewedDigest())
		r.Subject = reviewed.String()
		change, err = a.keeper.load(ctx, r, func() (authz.Change, error) { return live.LoadReviewed(file, reviewed) })
	}
	if err != nil {
		if wasDone(err) && r.Action != audit.ActionTryPolicy {
			err = fmt.Errorf("policy %s is in force: %w", change.After, err)
		}
		return nil, actError(err)
	}
	out := &tapsealv1.ReloadPolicyResponse{
		Applied:      r.Action != audit.ActionTryPolicy && change.Changed(),
		BeforeDigest: change.Before[:], AfterDigest: change.After[:], Changes: change.Lines,
	}
	if p, err := authz.LoadFile(file); err == nil && p.Digest() == change.After {
		for _, w := range p.Warnings() {
			out.Warnings = append(out.Warnings, w.String())
		}
	}
	return out, nil
}

// actError is the status of an act that did not go through. One that was done
// is not UNAVAILABLE: a client must not take it for one to be repeated.
func actError(err error) error {
	switch {
	case errors.Is(err, errOutcomeNotRecorded):
		return status.Error(codes.Internal, err.Error())
	case errors.Is(err, errActNotRecorded):
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.FailedPrecondition, err.Error())
}

// record begins an act's record with who acts and why.
func (a *administration) record(ctx context.Context, reason string) (audit.Record, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return audit.Record{}, err
	}
	who, err := c.principal(time.Now())
	if err != nil {
		return audit.Record{}, err
	}
	if reason == "" || len(reason) > maxReasonBytes || strings.ContainsFunc(reason, func(r rune) bool { return r < ' ' || r > '~' }) {
		return audit.Record{}, status.Error(codes.InvalidArgument, "reason: must be 1 to 200 printable ASCII characters")
	}
	return audit.Record{Caller: c.id.uri, Principal: who.Name(), Reason: reason}, nil
}
