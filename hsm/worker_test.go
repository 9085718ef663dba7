package hsm_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

// startWorker runs the real server of a data worker on a socket, with keys in
// software and a rotation of the subject key under way, until stop is called or
// the test ends.
func startWorker(t *testing.T, dir, name string) (stop func()) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
	if err != nil {
		t.Fatal(err)
	}
	s, err := worker.NewServer(worker.Options{
		Manifest: workertest.WithSubjects(workertest.Manifest(), true), Token: workertest.NewToken().Hashing(true),
		AllowedUIDs: []uint32{uint32(os.Getuid())}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ln); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		if !s.Drain(10 * time.Second) {
			t.Error("draining left something unanswered")
		}
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

type counter struct{ sync.WaitGroup }

func (c *counter) Completed(calls []*hsm.Call) { c.Add(-len(calls)) }

// tap is a call whose answer is known beforehand.
type tap struct {
	call  hsm.Call
	want  hsm.Answer
	arpc  [8]byte
	bytes uint8
}

// subjects must come with the answer.
func (tp *tap) subjects() [2]hsm.Subject {
	in := keys.NewSubjectInput(&tp.call.Request.PAN, tp.call.Request.PSN)
	return [2]hsm.Subject{workertest.NewSubjectKey.Subject(2, &in), workertest.OldSubjectKey.Subject(1, &in)}
}

func taps(n int, sink hsm.Sink) []*tap {
	out := make([]*tap, n)
	for i := range out {
		profile := []cryptogram.ProfileID{cryptogram.VisaCVN10, cryptogram.VisaCVN18}[i%2]
		it := workertest.Item(workertest.VisaKey, profile, uint32(i))
		tp := &tap{want: hsm.Matched}
		tp.arpc, tp.bytes = workertest.ARPC(workertest.VisaKey, &it)
		switch i % 5 {
		case 3:
			it = workertest.Spoil(it, i)
			tp.want, tp.arpc, tp.bytes = hsm.Mismatched, [8]byte{}, 0
		case 4:
			it.Request.Response = cryptogram.Response{}
			tp.arpc, tp.bytes = [8]byte{}, 0
		}
		tp.call = hsm.Call{Key: it.Key, Request: it.Request, Deadline: time.Now().Add(20 * time.Second), Sink: sink}
		out[i] = tp
	}
	return out
}

// Workers are replaced one after the other, as recycling does it: no call may
// notice, and every verdict and response cryptogram is the right one.
func TestRecyclingOfRealWorkersIsInvisible(t *testing.T) {
	const batch = 50
	dir, err := os.MkdirTemp("", "pool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	names := []string{"worker-0.sock", "worker-1.sock"}
	stops := []func(){startWorker(t, dir, names[0]), startWorker(t, dir, names[1])}
	p, err := hsm.NewPool(hsm.Options{SocketDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ready(t, p, 2)
	if err := p.Health(context.Background()); err != nil {
		t.Errorf("health: %v", err)
	}
	one := taps(1, nil)[0]
	s, err := p.Subject(context.Background(), one.call.Request.PAN, one.call.Request.PSN)
	if current, previous := p.SubjectVersions(); err != nil || s != one.subjects() || current != 2 || previous != 1 {
		t.Errorf("asked for alone: versions %d and %d, error %v", current, previous, err)
	}
	var back counter
	all := taps(3000, &back)
	back.Add(len(all))
	for i := 0; i < len(all); i += batch {
		calls := make([]*hsm.Call, batch)
		for j := range calls {
			calls[j] = &all[i+j].call
		}
		p.Submit(calls...)
		if i%750 == 500 { // four times, with calls out
			turn := i / 750 % 2
			go stops[turn]()
			time.Sleep(20 * time.Millisecond)
			stops[turn]()
			stops[turn] = startWorker(t, dir, names[turn])
			ready(t, p, 2)
		}
	}
	back.Wait()
	for i, tp := range all {
		if tp.call.Subjects != tp.subjects() {
			t.Fatalf("tap %d: subjects of another", i)
		}
		if tp.call.Answer != tp.want || tp.call.ARPC != tp.arpc || tp.call.ARPCBytes != tp.bytes {
			t.Fatalf("tap %d: answer %v with %d bytes of ARPC, want %v with %d",
				i, tp.call.Answer, tp.call.ARPCBytes, tp.want, tp.bytes)
		}
	}
	if s := p.Stats(); s.GoAways != 4 || s.ConnectionsLost != 0 || s.Retries != 0 {
		t.Errorf("recycling was a loss: %+v", s)
	}
}

func ready(t *testing.T, p *hsm.Pool, n int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); p.Stats().Connections < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not %d connections within 5 s: %+v", n, p.Stats())
		}
	}
}

// Refusals of the real worker arrive as what they are.
func TestRealWorkerRefuses(t *testing.T) {
	dir, err := os.MkdirTemp("", "pool")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	startWorker(t, dir, "worker-0.sock")
	p, err := hsm.NewPool(hsm.Options{SocketDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ready(t, p, 1)
	var back counter
	all := taps(5, &back)
	all[0].call.Key, all[0].want = workertest.SuspendedKey.ID(), hsm.KeyInactive
	all[1].call.Key, all[1].want = workertest.AbsentKey.ID(), hsm.KeyUnproven
	all[2].call.Key, all[2].want = [16]byte{1}, hsm.KeyUnknown
	all[3].call.Request.Profile, all[3].want = cryptogram.VisaCVN22, hsm.NotBound
	all[4].call.Request.Response.Kind, all[4].want = cryptogram.CardStatusUpdate, hsm.Malformed // CVN10 has method 1
	back.Add(len(all))
	for _, tp := range all {
		p.Submit(&tp.call)
	}
	back.Wait()
	for i, tp := range all {
		if tp.call.Answer != tp.want || tp.call.ARPCBytes != 0 || tp.call.Subjects != ([2]hsm.Subject{}) {
			t.Errorf("tap %d: answer %v, want %v", i, tp.call.Answer, tp.want)
		}
	}
	if s := p.Stats(); s.ConnectionsLost != 0 {
		t.Errorf("a refusal cost the connection: %+v", s)
	}
}
