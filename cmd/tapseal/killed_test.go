package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/clientcontext"
)

// backWithin is what the service gets for coming back by itself.
const backWithin = 2 * time.Second

// children are the processes that parent has started, in whatever state they
// are. One that ends meanwhile is left out.
func children(t *testing.T, parent int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// "pid (name) state ppid …", and the name may hold anything.
		_, rest, _ := strings.Cut(string(data), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) || fields[0] == "Z" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, pid)
	}
	return found
}

// A stream of taps asks one after the other, right ones and wrong ones in
// turn, and notes any verdict that is not true.
type tapStream struct {
	client      tapsealv1.CryptogramServiceClient
	right, bad  *tapsealv1.Tap
	answered    atomic.Int64
	wrong       atomic.Pointer[string]
	stop, ended chan struct{}
}

func newTapStream(t *testing.T, contextPath string) *tapStream {
	t.Helper()
	where, err := clientcontext.Load(contextPath)
	if err != nil {
		t.Fatal(err)
	}
	client, conn, err := dial(where)
	if err != nil {
		t.Fatal(err)
	}
	text := tapJSON(t, contextPath, "visa-cvn18")
	spoiled, err := flip(text, "9F26")
	if err != nil {
		t.Fatal(err)
	}
	s := &tapStream{
		client: client, right: tapMessage(t, text), bad: tapMessage(t, spoiled),
		stop: make(chan struct{}), ended: make(chan struct{}),
	}
	go s.run()
	t.Cleanup(func() {
		close(s.stop)
		<-s.ended
		_ = conn.Close()
	})
	return s
}

func tapMessage(t *testing.T, text string) *tapsealv1.Tap {
	t.Helper()
	var out tapOutput
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	field55, err := hex.DecodeString(out.Field55)
	if err != nil {
		t.Fatal(err)
	}
	return &tapsealv1.Tap{
		RequestId: "killed", ChipData: &tapsealv1.Tap_Field55{Field55: field55}, Pan: out.PAN, Psn: &out.PSN,
		Purpose: tapsealv1.Purpose_PURPOSE_AUTHORISE, TimeoutMs: 200,
	}
}

func (s *tapStream) run() {
	defer close(s.ended)
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		s.ask(s.right, tapsealv1.Verdict_VERDICT_VALID)
		s.ask(s.bad, tapsealv1.Verdict_VERDICT_INVALID)
	}
}

// ask reports whether the verdict was want. Not to know is allowed.
func (s *tapStream) ask(tap *tapsealv1.Tap, want tapsealv1.Verdict) bool {
	ctx, cancel := context.WithTimeout(context.Background(), backWithin)
	defer cancel()
	out, err := s.client.VerifyCryptogram(ctx, &tapsealv1.VerifyCryptogramRequest{Tap: tap})
	got := out.GetVerification().GetVerdict()
	switch {
	case err != nil || got == tapsealv1.Verdict_VERDICT_UNKNOWN:
		return false
	case got != want:
		text := fmt.Sprintf("verdict %s, want %s", got, want)
		s.wrong.Store(&text)
		return false
	}
	s.answered.Add(1)
	return true
}

// mustBeBack waits for a right tap to be VALID again.
func (s *tapStream) mustBeBack(t *testing.T, since time.Time) {
	t.Helper()
	for !s.ask(s.right, tapsealv1.Verdict_VERDICT_VALID) {
		if time.Since(since) > backWithin {
			t.Fatalf("not back within %s", backWithin)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// tokenFiles are the files of the one token by name.
func tokenFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no token: %v", err)
	}
	files := map[string]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(path)] = string(data)
	}
	return files
}

// tokenObject is the file that a login empties and writes again.
func tokenObject(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "tokens", "*", "token.object"))
	if err != nil || len(found) != 1 {
		t.Fatalf("token object: %v, %v", found, err)
	}
	return found[0]
}

func isEmpty(path string) bool {
	var info syscall.Stat_t
	return syscall.Stat(path, &info) == nil && info.Size == 0
}

// lastSupervisor is the one that runs.
func lastSupervisor(t *testing.T, dir string) int {
	t.Helper()
	all := supervisors(t, dir)
	if len(all) == 0 {
		t.Fatal("no supervisor")
	}
	return all[len(all)-1]
}

// manyWorkers is development mode with more workers than it has by itself.
func manyWorkers(t *testing.T, dir string) *devProcess {
	t.Helper()
	mustStop(t, mustStart(t, dir))
	path := filepath.Join(dir, "hsm.yaml")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, "workers: 8\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	return mustStart(t, dir)
}

// TestKilledInEveryState kills workers more than a hundred times, whatever they
// are doing, also in their login: SoftHSM empties the token's own file there
// and writes it again, and one that is killed in between leaves it empty.
func TestKilledInEveryState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	d := manyWorkers(t, dir)
	defer mustStop(t, d)
	before, object, parent := tokenFiles(t, dir), tokenObject(t, dir), lastSupervisor(t, dir)
	stream := newTapStream(t, d.Context)
	kills, left := 0, 0
	for round := 0; kills < 120; round++ {
		pids := children(t, parent)
		if aim := round%2 == 1; aim {
			spinUntilEmpty(object, 20*time.Millisecond)
		} else {
			time.Sleep(rand.N(100 * time.Millisecond))
		}
		for _, pid := range pids {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		}
		time.Sleep(time.Millisecond)
		if isEmpty(object) {
			left++
		}
	}
	stream.mustBeBack(t, time.Now())
	if wrong := stream.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
	if stream.answered.Load() == 0 {
		t.Error("nothing was answered")
	}
	t.Logf("%d processes killed, the token's file left empty by %d kills, %d right verdicts", kills, left, stream.answered.Load())
	after := tokenFiles(t, dir)
	for name, data := range before {
		if name != "token.object" && after[name] != data {
			t.Errorf("%s changed", name)
		}
	}
}

// spinUntilEmpty returns as soon as a login has emptied the file, for it is
// empty for less than a millisecond; or after the limit.
func spinUntilEmpty(path string, limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end) && !isEmpty(path); {
	}
}

// TestEmptiedToken leaves what a worker leaves that was killed in its login,
// for certain: once while development mode runs, and once before it starts.
func TestEmptiedToken(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	d := mustStart(t, dir)
	stream := newTapStream(t, d.Context)
	object := tokenObject(t, dir)
	whole := tokenFiles(t, dir)["token.object"]
	for _, left := range []int64{0, 100, 0} {
		if err := os.Truncate(object, left); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		for _, pid := range children(t, lastSupervisor(t, dir)) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		stream.mustBeBack(t, killed)
	}
	if wrong := stream.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log", "tapseald.log"))
	if err != nil || !bytes.Contains(log, []byte("put the token's file back")) {
		t.Errorf("the log does not say it: %v", err)
	}
	mustStop(t, d)

	if err := os.Truncate(object, 0); err != nil {
		t.Fatal(err)
	}
	d = mustStart(t, dir)
	defer mustStop(t, d)
	mustBeValid(t, d.Context)
	if got := tokenFiles(t, dir)["token.object"]; len(got) != len(whole) {
		t.Errorf("token.object has %d bytes, want %d", len(got), len(whole))
	}
}
