package server

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// receiver is the client's side of any stream.
type receiver interface{ RecvMsg(m any) error }

// guarded are streams of the handlers that know nothing of callers, each after
// its first answer: one that only sends, and one that waits for the client.
func guarded(ctx context.Context, t *testing.T, r *rig) map[string]receiver {
	t.Helper()
	watch, err := healthpb.NewHealthClient(r.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := watch.Recv(); err != nil || m.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("watch: %v, %v", m, err)
	}
	reflect, err := reflectionpb.NewServerReflectionClient(r.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := reflect.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := reflect.Recv(); err != nil {
		t.Fatal(err)
	}
	return map[string]receiver{"watch": watch, "reflection": reflect}
}

// wantEnd waits for the streams' end. The daemon looks once a second.
func wantEnd(t *testing.T, streams map[string]receiver, want codes.Code) {
	t.Helper()
	start := time.Now()
	for name, s := range streams {
		if err := s.RecvMsg(&healthpb.HealthCheckResponse{}); status.Code(err) != want {
			t.Errorf("%s ended with %v, want %v", name, err, want)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the streams went on for %v", took)
	}
}

func TestIdleStreamsEndWithTheirRights(t *testing.T) {
	r := newRig(t, "visa")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	streams := guarded(ctx, t, r)
	ask := func() error {
		s := streams["reflection"].(reflectionpb.ServerReflection_ServerReflectionInfoClient) //nolint:errcheck // made so above
		if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}
	// One method taken away ends its streams, and only those.
	r.writePolicy(testPeople(), callersHealth+callersWatch, callersHealth)
	r.reloadNow(t)
	wantEnd(t, map[string]receiver{"watch": streams["watch"]}, codes.PermissionDenied)
	if err := ask(); err != nil {
		t.Fatalf("the stream ended although the right is there: %v", err)
	}
	r.writePolicy(testPeople(), callerFirst, callerMoved)
	r.reloadNow(t)
	wantEnd(t, map[string]receiver{"reflection": streams["reflection"]}, codes.Unauthenticated)
}

// The caller's row for health in the development policy.
const (
	callersHealth = "  - role: caller\n    methods:\n      - tapseal.v1.AdminService/WatchEvents\n      - grpc.health.v1.Health/Check\n      - grpc.health.v1.Health/List\n"
	callersWatch  = "      - grpc.health.v1.Health/Watch\n"
)

func TestGuardedStreamsCountAgainstTheCallersLimit(t *testing.T) {
	r := newRig(t, "visa", func(r *rig) { r.writePolicy(testPeople(), "streams: 10000", "streams: 2") })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	one, stop := context.WithCancel(ctx)
	guarded(one, t, r)
	watch := func() error {
		w, err := healthpb.NewHealthClient(r.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = w.Recv()
		return err
	}
	wantRetry(t, watch())
	stop()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := watch()
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the places did not come back: %v", err)
		}
	}
}
