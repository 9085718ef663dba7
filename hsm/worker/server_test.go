package worker_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

const patience = 20 * time.Second

// A safeBuffer is a log that may be written and read at once.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type fixture struct {
	server *worker.Server
	path   string
	log    *safeBuffer
	served chan error
}

func serve(t testing.TB, token worker.DataToken, change func(*worker.Options)) *fixture {
	t.Helper()
	f := &fixture{path: filepath.Join(t.TempDir(), "w.sock"), log: &safeBuffer{}, served: make(chan error, 1)}
	o := worker.Options{
		Manifest: workertest.Manifest(), Token: token, AllowedUIDs: []uint32{uint32(os.Getuid())},
		Log: slog.New(slog.NewJSONHandler(f.log, nil)),
	}
	if change != nil {
		change(&o)
	}
	var err error
	if f.server, err = worker.NewServer(o); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: f.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	go func() { f.served <- f.server.Serve(l) }()
	t.Cleanup(func() {
		if !f.server.Drain(patience) {
			t.Error("the server does not drain")
		}
		if err := <-f.served; err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fixture) dial(t testing.TB) *workertest.Client {
	t.Helper()
	c, err := workertest.Dial(f.path, patience)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { _ = c.Conn.Close() })
	return c
}

func monotonic(t testing.TB) int64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return ts.Nano()
}

func TestEveryAnswer(t *testing.T) {
	f := serve(t, workertest.NewToken(), nil)
	c := f.dial(t)
	if got, want := len(c.Keys), 3; got != want {
		t.Fatalf("key table has %d entries, want %d", got, want)
	}
	genuine := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	with := func(change func(*frame.Item)) frame.Item {
		it := genuine
		change(&it)
		return it
	}
	for _, tc := range []struct {
		name string
		item frame.Item
		want frame.Status
	}{
		{"genuine, ARPC method 2", genuine, frame.StatusMatched},
		{"genuine, ARPC method 1", workertest.Item(workertest.VisaKey, cryptogram.VisaCVN10, 2), frame.StatusMatched},
		{"genuine, no response", with(func(i *frame.Item) { i.Request.Response = cryptogram.Response{} }), frame.StatusMatched},
		{"deadline to come", with(func(i *frame.Item) { i.Deadline = monotonic(t) + int64(patience) }), frame.StatusMatched},
		{"wrong cryptogram", workertest.Spoil(genuine, 63), frame.StatusMismatched},
		{"key of nobody", with(func(i *frame.Item) { i.Key[3]++ }), frame.StatusKeyUnknown},
		{"suspended key", workertest.Item(workertest.SuspendedKey, cryptogram.VisaCVN18, 3), frame.StatusKeyInactive},
		{"key not in the token", workertest.Item(workertest.AbsentKey, cryptogram.VisaCVN18, 4), frame.StatusKeyUnproven},
		{"profile not bound", with(func(i *frame.Item) { i.Request.Profile = cryptogram.EMVCCD }), frame.StatusNotBound},
		{"profile of nobody", with(func(i *frame.Item) { i.Request.Profile = 999 }), frame.StatusNotBound},
		{"IAD of another version", with(func(i *frame.Item) { i.Request.Profile = cryptogram.VisaCVN10 }), frame.StatusMalformed},
		{"key option of nobody", with(func(i *frame.Item) { i.Request.KeyOption = 9 }), frame.StatusMalformed},
		{"deadline passed", with(func(i *frame.Item) { i.Deadline = monotonic(t) - 1 }), frame.StatusExpired},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := c.Verify(tc.item)
			if err != nil {
				t.Fatal(err)
			}
			r := got[tc.item.ID]
			if r.Status != tc.want {
				t.Fatalf("status %x, want %x", r.Status, tc.want)
			}
			var arpc [8]byte
			var n uint8
			if tc.want == frame.StatusMatched && tc.item.Request.Response.Kind != 0 {
				arpc, n = workertest.ARPC(workertest.VisaKey, &tc.item)
			}
			if r.ARPC != arpc || r.ARPCBytes != n {
				t.Error("wrong ARPC")
			}
		})
	}
}

// Thousands of requests in frames of all sizes on several connections: each
// gets its own answer.
func TestManyAtOnce(t *testing.T) {
	f := serve(t, workertest.NewToken(), nil)
	var all sync.WaitGroup
	for conn := range 4 {
		c := f.dial(t)
		all.Add(1)
		go func() {
			defer all.Done()
			n := uint32(conn * 100_000)
			for size := 1; size <= 256; size += 17 {
				items := make([]frame.Item, size)
				for i := range items {
					n++
					items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, n)
					if n%3 == 0 {
						items[i] = workertest.Spoil(items[i], int(n))
					}
				}
				got, err := c.Verify(items...)
				if err != nil {
					t.Error(err)
					return
				}
				for id, r := range got {
					want := frame.StatusMatched
					if id%3 == 0 {
						want = frame.StatusMismatched
					}
					if r.Status != want {
						t.Errorf("item %d: status %x, want %x", id, r.Status, want)
					}
				}
			}
		}()
	}
	all.Wait()
}

// Frames arrive in pieces of any size.
func TestPieces(t *testing.T) {
	f := serve(t, workertest.NewToken(), nil)
	c := f.dial(t)
	item := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	for _, size := range []int{1, 7, 8, 9, 100} {
		stream := append(workertest.Frame(item), workertest.Frame(item, item)...)
		go func() {
			for len(stream) > 0 {
				n := min(size, len(stream))
				if _, err := c.Conn.Write(stream[:n]); err != nil {
					return
				}
				stream = stream[n:]
				time.Sleep(50 * time.Microsecond)
			}
		}()
		for answered := 0; answered < 3; {
			replies, err := c.Receive()
			if err != nil {
				t.Fatalf("pieces of %d bytes: %v", size, err)
			}
			for _, r := range replies {
				if r.Status != frame.StatusMatched {
					t.Fatalf("pieces of %d bytes: status %x", size, r.Status)
				}
			}
			answered += len(replies)
		}
	}
}

func TestGuessLimit(t *testing.T) {
	f := serve(t, workertest.NewToken(), func(o *worker.Options) { o.Guess.Mismatches = 5 })
	c := f.dial(t)
	genuine := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	ask := func(it frame.Item, want frame.Status) {
		t.Helper()
		got, err := c.Verify(it)
		if err != nil {
			t.Fatal(err)
		}
		if s := got[it.ID].Status; s != want {
			t.Fatalf("status %x, want %x", s, want)
		}
	}
	for range 10 {
		ask(genuine, frame.StatusMatched) // right answers are not counted
	}
	for bit := range 5 {
		ask(workertest.Spoil(genuine, bit), frame.StatusMismatched)
	}
	before := f.server.Beat()
	ask(workertest.Spoil(genuine, 9), frame.StatusGuessLimit)
	ask(genuine, frame.StatusGuessLimit)
	after := f.server.Beat()
	if after.Served != before.Served || after.Refused != before.Refused+2 {
		t.Errorf("the token was asked: %+v, then %+v", before, after)
	}
	ask(workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 2), frame.StatusMatched)
}

// A caller that guesses shuts itself out, and the card stays in service for all
// others; callers that guess together, or a client that invents them, are bounded.
func TestGuessLimitOfCallers(t *testing.T) {
	const limit = 5
	f := serve(t, workertest.NewToken(), func(o *worker.Options) { o.Guess.Mismatches = limit })
	c := f.dial(t)
	genuine := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	ask := func(caller uint32, it frame.Item, want frame.Status) {
		t.Helper()
		it.Caller = caller
		got, err := c.Verify(it)
		if err != nil {
			t.Fatal(err)
		}
		if s := got[it.ID].Status; s != want {
			t.Fatalf("caller %d: status %x, want %x", caller, s, want)
		}
	}
	for caller := range uint32(16) { // 0: not said
		ask(caller, genuine, frame.StatusMatched)
		for bit := range limit {
			ask(caller, workertest.Spoil(genuine, bit), frame.StatusMismatched)
		}
		ask(caller, genuine, frame.StatusGuessLimit)
		ask(caller, workertest.Spoil(genuine, 9), frame.StatusGuessLimit)
	}
	ask(16, genuine, frame.StatusGuessLimit)
	ask(16, workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 2), frame.StatusMatched)
}

func TestHealth(t *testing.T) {
	token := workertest.NewToken()
	f := serve(t, token, nil)
	c := f.dial(t)
	if s, err := c.Health(77); err != nil || s != frame.StatusMatched {
		t.Fatalf("status %x, error %v", s, err)
	}
	token.Held[workertest.AbsentKey.ID()] = workertest.AbsentKey
	delete(token.Held, workertest.VisaKey.ID())
	if s, err := c.Health(78); err != nil || s != frame.StatusMatched {
		t.Fatalf("one bad key among many stops the service: status %x, error %v", s, err)
	}
	clear(token.Held)
	if s, err := c.Health(79); err != nil || s != frame.StatusKeyUnproven {
		t.Fatalf("status %x, error %v", s, err)
	}
}

func TestTokenErrorsAreNotVerdicts(t *testing.T) {
	token := workertest.NewToken()
	token.Before = func() error { return errors.New("CKR_DEVICE_ERROR") }
	f := serve(t, token, nil)
	c := f.dial(t)
	it := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	got, err := c.Verify(it, workertest.Spoil(it, 3))
	if err == nil || len(got) != 1 { // the same id twice in one frame
		t.Fatalf("%d answers, error %v", len(got), err)
	}
	if s := got[it.ID].Status; s != frame.StatusTokenFailure {
		t.Fatalf("status %x", s)
	}
}

// Whatever a client sends that is not the protocol ends its connection, with a
// log line without the bytes, and nobody else's.
func TestGarbage(t *testing.T) {
	f := serve(t, workertest.NewToken(), nil)
	bystander := f.dial(t)
	it := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
	hello := frame.AppendHello(nil)
	spoiled := workertest.Frame(it)
	spoiled[frame.HeaderBytes+1] = 0xFF // item length
	for name, in := range map[string][]byte{
		"text":                []byte("GET / HTTP/1.1\r\nHost: 4111111111111111\r\n\r\n"),
		"zeros":               make([]byte, 4096),
		"hello, then text":    append(append([]byte{}, hello...), "4111111111111111 4111111111111111"...),
		"hello twice":         append(append([]byte{}, hello...), hello...),
		"no hello":            workertest.Frame(it),
		"a worker's frame":    append(append([]byte{}, hello...), frame.AppendGoAway(nil)...),
		"item length":         append(append([]byte{}, hello...), spoiled...),
		"huge frame":          append(append([]byte{}, hello...), 0xFF, 0xFF, 0xFF, 0x7F, 4, frame.Version, 1, 0),
		"version of tomorrow": append(append([]byte{}, hello...), 8, 0, 0, 0, 6, frame.Version+1, 0, 0),
	} {
		c, err := net.Dial("unix", f.path)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(in) // the other end may be closed already
		if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s: the connection was not closed: %v", name, err)
		}
		_ = c.Close()
	}
	if got, err := bystander.Verify(it); err != nil || got[it.ID].Status != frame.StatusMatched {
		t.Errorf("another connection suffered: %v", err)
	}
	if log := f.log.String(); strings.Contains(log, "4111") || !strings.Contains(log, "connection closed") {
		t.Errorf("log: %s", log)
	}
}

func TestStrangersAndCrowds(t *testing.T) {
	f := serve(t, workertest.NewToken(), func(o *worker.Options) { o.AllowedUIDs = []uint32{4242} })
	if _, err := workertest.Dial(f.path, patience); err == nil {
		t.Error("a user that is not allowed got in")
	}
	f = serve(t, workertest.NewToken(), func(o *worker.Options) { o.MaxConns = 2 })
	first := f.dial(t)
	f.dial(t)
	if _, err := workertest.Dial(f.path, patience); err == nil {
		t.Error("more connections than allowed")
	}
	_ = first.Conn.Close()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		c, err := workertest.Dial(f.path, patience)
		if err == nil {
			_ = c.Conn.Close()
			break
		}
		if time.Since(start) > patience {
			t.Fatal("a closed connection is still counted")
		}
	}
}

// A client that does not read its replies is cut off and holds up nobody.
func TestClientThatDoesNotRead(t *testing.T) {
	f := serve(t, workertest.NewToken(), func(o *worker.Options) { o.WriteTimeout = 200 * time.Millisecond })
	lazy := f.dial(t)
	items := make([]frame.Item, 256)
	for i := range items {
		items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)
		items[i].Request.KeyOption = 9 // answered without the token
	}
	data := workertest.Frame(items...)
	for start := time.Now(); time.Since(start) < patience; {
		if _, err := lazy.Conn.Write(data); err != nil {
			break
		}
	}
	it := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 2)
	if got, err := f.dial(t).Verify(it); err != nil || got[it.ID].Status != frame.StatusMatched {
		t.Errorf("another connection suffered: %v", err)
	}
	if !strings.Contains(f.log.String(), "writing replies") {
		t.Errorf("the lazy client was not cut off: %s", f.log)
	}
}

// Drain says GoAway, answers what was sent before, and takes nothing new.
func TestDrain(t *testing.T) {
	token := workertest.NewToken()
	token.Pause = 5 * time.Millisecond
	f := serve(t, token, nil)
	idle, busy := f.dial(t), f.dial(t)
	const frames, size = 4, 64
	for n := range frames {
		items := make([]frame.Item, size)
		for i := range items {
			items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, uint32(1+n*size+i))
		}
		if err := busy.Send(items...); err != nil {
			t.Fatal(err)
		}
	}
	drained := make(chan bool, 1)
	go func() { drained <- f.server.Drain(patience) }()
	if _, err := idle.Receive(); !errors.Is(err, workertest.ErrGoAway) {
		t.Errorf("idle connection: got %v, want GoAway", err)
	}
	answered, goAways := 0, 0
	for answered < frames*size || goAways == 0 {
		replies, err := busy.Receive()
		if errors.Is(err, workertest.ErrGoAway) {
			goAways++
			continue
		}
		if err != nil {
			t.Fatalf("after %d answers: %v", answered, err)
		}
		answered += len(replies)
	}
	if answered != frames*size || goAways != 1 {
		t.Errorf("%d answers and %d GoAways", answered, goAways)
	}
	_ = busy.Conn.Close()
	if !<-drained { // the idle client never closes: it is cut off
		t.Error("not drained")
	}
	if _, err := workertest.Dial(f.path, time.Second); err == nil {
		t.Error("a drained server accepts connections")
	}
}

func TestDeadlinePassesWhileWaiting(t *testing.T) {
	token := workertest.NewToken()
	token.Pause = 50 * time.Millisecond
	f := serve(t, token, nil)
	c := f.dial(t)
	items := make([]frame.Item, 32)                       // four crossings
	deadline := monotonic(t) + int64(75*time.Millisecond) // of all: making them takes long on a busy machine
	for i := range items {
		items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, uint32(i+1))
		items[i].Deadline = deadline
	}
	got, err := c.Verify(items...)
	if err != nil {
		t.Fatal(err)
	}
	if s := got[32].Status; s != frame.StatusExpired {
		t.Errorf("last item: status %x, want expired", s)
	}
	if b := f.server.Beat(); b.Served > 24 {
		t.Errorf("%d items were taken to the token", b.Served)
	}
}

// Replies are held back only while more requests wait, and only for so long.
func TestHeldReplies(t *testing.T) {
	for _, tc := range []struct {
		name                string
		pause               time.Duration // of each crossing
		items               int
		minFrames, maxFrame int // frames at least, replies in one at most
	}{
		{"fast token", 0, 256, 4, 64},
		{"slow token", 4 * time.Millisecond, 64, 4, 24},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := workertest.NewToken()
			token.Pause = tc.pause
			c := serve(t, token, nil).dial(t)
			items := make([]frame.Item, tc.items)
			for i := range items {
				items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, uint32(i+1))
			}
			if err := c.Send(items...); err != nil {
				t.Fatal(err)
			}
			frames, largest := 0, 0
			for got := 0; got < tc.items; frames++ {
				replies, err := c.Receive()
				if err != nil {
					t.Fatal(err)
				}
				got += len(replies)
				largest = max(largest, len(replies))
			}
			if frames < tc.minFrames || largest > tc.maxFrame {
				t.Errorf("%d frames, the largest with %d replies; want at least %d, at most %d",
					frames, largest, tc.minFrames, tc.maxFrame)
			}
		})
	}
}

func TestNoAllocationsPerItem(t *testing.T) {
	f := serve(t, nothing{}, func(o *worker.Options) { workertest.WithSubjects(o.Manifest, false) })
	c := f.dial(t)
	items := make([]frame.Item, 256)
	for i := range items {
		items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, uint32(i+1))
	}
	data := workertest.Frame(items...)
	in := make([]byte, 64<<10)
	round := func() {
		if _, err := c.Conn.Write(data); err != nil {
			t.Fatal(err)
		}
		awaitReplies(t, c.Conn, in, 256)
	}
	round()
	if per := testing.AllocsPerRun(50, round); per > 2 {
		t.Errorf("%.1f allocations for 256 items", per)
	}
}

// nothing is a token that matches everything at no cost.
type nothing struct {
	worker.KeyProof
	worker.SubjectHasher
}

func (nothing) Execute(jobs []*worker.Job) {
	for _, j := range jobs {
		j.Err = nil
		if !j.Subject.IsZero() {
			j.Subjects[0] = keys.Subject{Version: 1, Hash: [keys.SubjectBytes]byte{1}}
		}
		j.Outcome.Steps[0].Status = cryptogram.Matched
		j.Outcome.Steps[1].Status = cryptogram.Produced
	}
}

func BenchmarkServe(b *testing.B) {
	f := serve(b, nothing{}, nil)
	c := f.dial(b)
	_ = c.Conn.SetDeadline(time.Time{})
	items := make([]frame.Item, 64)
	for i := range items {
		items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, uint32(i+1))
	}
	data := workertest.Frame(items...)
	in := make([]byte, 64<<10)
	b.ReportAllocs()
	for i := 0; i < b.N; i += 64 {
		if _, err := c.Conn.Write(data); err != nil {
			b.Fatal(err)
		}
		awaitReplies(b, c.Conn, in, 64)
	}
}

// awaitReplies reads Replies frames until n replies are there.
func awaitReplies(t testing.TB, r io.Reader, buf []byte, n int) {
	t.Helper()
	for n > 0 {
		if _, err := io.ReadFull(r, buf[:frame.HeaderBytes]); err != nil {
			t.Fatal(err)
		}
		h, err := frame.ParseHeader(buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, buf[:h.PayloadBytes]); err != nil {
			t.Fatal(err)
		}
		n -= int(h.Count)
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
