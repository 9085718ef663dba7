package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/workertest"
)

const (
	testPIN  = "7261-top-secret"
	patience = 30 * time.Second
)

// A rig is a supervisor in this process with workers of the test binary.
type rig struct {
	t    *testing.T
	dir  string
	c    *Config
	log  *os.File
	stop context.CancelFunc
	// of Options, nil is the system's
	clock secrets.Clock
	done  chan error
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "rig") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir}
	manifest, err := workertest.Manifest().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	r.write("manifest.yaml", string(manifest))
	r.write("pin", testPIN+"\n")
	r.write("module.so", "")
	module, err := worker.HashModule(r.path("module.so"))
	if err != nil {
		t.Fatal(err)
	}
	r.c = &Config{
		Module: r.path("module.so"), ModuleSHA256: module.String(), TokenLabel: "test", PINFile: r.path("pin"), Manifest: r.path("manifest.yaml"),
		SocketDir: r.path("run"), StateDir: r.path("state"), Workers: 2,
		Environment: map[string]string{envLogins: r.path("logins"), envMode: r.path("mode"), envStuck: r.path("stuck")},
	}
	if change != nil {
		change(r.c)
	}
	if r.log, err = os.OpenFile(r.path("log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.log.Close() })
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) read(name string) string {
	data, err := os.ReadFile(r.path(name))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return string(data)
}

func (r *rig) options() Options {
	return Options{Binary: os.Args[0], Stderr: r.log, Log: slog.New(slog.NewJSONHandler(r.log, nil)), Clock: r.clock}
}

// start runs a supervisor until the test ends or stopNow.
func (r *rig) start() {
	r.t.Helper()
	s, err := New(r.c, r.options())
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop, r.done = cancel, make(chan error, 1)
	go func() { r.done <- s.Run(ctx) }()
	r.t.Cleanup(r.stopNow)
}

func (r *rig) stopNow() {
	if r.stop == nil {
		return
	}
	r.stop()
	r.stop = nil
	select {
	case err := <-r.done:
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(patience):
		r.t.Fatal("the supervisor does not end")
	}
}

func (r *rig) status() *Status {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	st, err := QueryStatus(ctx, r.c.SocketDir)
	if err != nil {
		r.t.Fatal(err)
	}
	return st
}

// await polls the status until ok.
func (r *rig) await(what string, ok func(*Status) bool) *Status {
	r.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		st := r.status()
		if ok(st) {
			return st
		}
		if time.Since(start) > patience {
			r.t.Fatalf("waited too long until %s: %+v\n%s", what, st, r.read("log"))
		}
	}
}

func allServe(st *Status) bool {
	for _, w := range st.Workers {
		if w.State != stateServing {
			return false
		}
	}
	return true
}

// stateFile reports whether the file is in the state directory.
func (r *rig) stateFile(name string) bool {
	_, err := os.Lstat(filepath.Join(r.c.StateDir, name))
	return err == nil
}

func (r *rig) logins() int { return strings.Count(r.read("logins"), "\n") }

// A load sends requests to one slot all the time, every third one wrong, and
// checks each answer. A connection that breaks is made again; requests without
// an answer are nobody's verdict.
type load struct {
	path       string
	stop, done chan struct{}
	client     *workertest.Client
	n          uint32

	mu                        sync.Mutex // guards what follows
	answered, broken, goAways int
	wrong                     []string
	longest                   time.Duration // between two answers
	last                      time.Time
}

func startLoad(path string) *load {
	l := &load{path: path, stop: make(chan struct{}), done: make(chan struct{}), last: time.Now()}
	go l.run()
	return l
}

func (l *load) run() {
	defer close(l.done)
	for {
		select {
		case <-l.stop:
			if l.client != nil {
				_ = l.client.Conn.Close()
			}
			return
		default:
		}
		l.round()
	}
}

func (l *load) round() {
	if l.client == nil {
		c, err := workertest.Dial(l.path, 100*time.Millisecond)
		if err != nil {
			return
		}
		l.client = c
	}
	items := make([]frame.Item, 16)
	for i := range items {
		l.n++
		items[i] = workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, l.n)
		if l.n%3 == 0 {
			items[i] = workertest.Spoil(items[i], int(l.n))
		}
	}
	err := l.client.Send(items...)
	for open := len(items); err == nil && open > 0; {
		var replies []frame.Reply
		_ = l.client.Conn.SetReadDeadline(time.Now().Add(patience))
		replies, err = l.client.Receive()
		if err == workertest.ErrGoAway { //nolint:errorlint // as it is
			l.mu.Lock()
			l.goAways++
			l.mu.Unlock()
			err = nil
			defer l.hangUp() // after the answers
			continue
		}
		open -= len(replies)
		l.judge(replies)
	}
	if err != nil {
		l.mu.Lock()
		l.broken++
		l.mu.Unlock()
		l.hangUp()
	}
}

func (l *load) hangUp() {
	if l.client != nil {
		_ = l.client.Conn.Close()
		l.client = nil
	}
}

func (l *load) judge(replies []frame.Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range replies {
		want := frame.StatusMatched
		if r.ID%3 == 0 {
			want = frame.StatusMismatched
		}
		if r.Status != want {
			l.wrong = append(l.wrong, fmt.Sprintf("item %d: status %x", r.ID, r.Status))
		}
	}
	l.answered += len(replies)
	l.longest = max(l.longest, time.Since(l.last))
	l.last = time.Now()
}

// awaitAnswers waits for one that comes after now.
func (l *load) awaitAnswers(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	before := l.answered
	l.mu.Unlock()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		after := l.answered
		l.mu.Unlock()
		if after > before {
			return
		}
		if time.Since(begun) > patience {
			t.Fatal("no answers any more")
		}
	}
}

func (l *load) end(t *testing.T) {
	t.Helper()
	close(l.stop)
	<-l.done
	for _, w := range l.wrong {
		t.Error(w)
	}
	if l.answered == 0 {
		t.Error("nothing was answered")
	}
}

// A worker is killed a hundred times under load, and every third time its
// successor as well, at some point of its start: whatever is answered is
// right, service is back within 2 s, and no login is held against the PIN.
func TestKilledHundredTimes(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	r.await("all serve", allServe)
	l := startLoad(r.c.workerSocket(0))
	inStart := 0
	for n := range 100 {
		st := r.await("worker 0 serves", func(st *Status) bool { return st.Workers[0].State == stateServing })
		if err := syscall.Kill(st.Workers[0].PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if n%3 == 0 {
			inStart += killStarting(st, time.Duration(n)*100*time.Microsecond)
		}
		r.await("there is another worker", func(now *Status) bool {
			return now.Workers[0].State == stateServing && now.Workers[0].PID != st.Workers[0].PID
		})
		l.awaitAnswers(t)
	}
	l.end(t)
	if l.longest > 2*time.Second {
		t.Errorf("service was away for %s", l.longest)
	}
	st := r.status()
	if st.Workers[0].Restarts < 100 || st.Workers[1].Restarts != 0 || st.Login != LoginOK || r.stateFile(latchName) {
		t.Errorf("after the kills: %+v", st)
	}
	t.Logf("away for %s at most; %d killed in their start, %d of them in the login", l.longest.Round(time.Millisecond), inStart, st.Logins["unknown"])
	if inStart < 20 {
		t.Errorf("only %d were killed in their start", inStart)
	}
}

// killStarting kills the process that takes the place of slot 0's, some time
// after it appears, and gives 1 if there was one.
func killStarting(before *Status, after time.Duration) int {
	for begun := time.Now(); time.Since(begun) < time.Second; time.Sleep(time.Millisecond) {
		for _, pid := range children() {
			if pid != before.Workers[0].PID && pid != before.Workers[1].PID {
				time.Sleep(after)
				_ = syscall.Kill(pid, syscall.SIGKILL)
				return 1
			}
		}
	}
	return 0
}

// children are the processes that this one has started.
func children() []int {
	var pids []int
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		data, _ := os.ReadFile(list) // a thread may have ended
		for _, field := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func TestStuckWorkerIsKilled(t *testing.T) {
	r := newRig(t, func(c *Config) { c.StuckAfterMS = 300; c.Workers = 1 })
	r.start()
	st := r.await("all serve", allServe)
	c, err := workertest.Dial(r.c.workerSocket(0), patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Conn.Close() //nolint:errcheck // the end of the test
	r.write("stuck", "")
	if err := c.Send(workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, 1)); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_ = c.Conn.SetDeadline(time.Now().Add(patience))
	if _, err := c.Receive(); err == nil {
		t.Fatal("a stuck worker answered")
	}
	if took := time.Since(begun); took < 300*time.Millisecond || took > 2*time.Second {
		t.Errorf("killed after %s", took)
	}
	_ = os.Remove(r.path("stuck"))
	r.await("there is another worker", func(now *Status) bool {
		return allServe(now) && now.Workers[0].PID != st.Workers[0].PID
	})
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("replaced after %s", took)
	}
}

// A stopped process sends no beats.
func TestSilentWorkerIsKilled(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Workers = 1 })
	r.start()
	st := r.await("all serve", allServe)
	if err := syscall.Kill(st.Workers[0].PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r.await("there is another worker", func(now *Status) bool {
		return allServe(now) && now.Workers[0].PID != st.Workers[0].PID
	})
}

// Recycling under load loses nothing, and never happens in two slots at once.
func TestRecyclingIsInvisible(t *testing.T) {
	r := newRig(t, func(c *Config) { c.RecycleAfter = 2000 })
	r.start()
	r.await("all serve", allServe)
	loads := []*load{startLoad(r.c.workerSocket(0)), startLoad(r.c.workerSocket(1))}
	r.await("three recyclings in each slot", func(st *Status) bool {
		starting := 0
		for _, w := range st.Workers {
			if w.State != stateServing {
				starting++
			}
		}
		if starting > 0 {
			t.Error("a slot had no worker during recycling")
		}
		return st.Workers[0].Recycles >= 3 && st.Workers[1].Recycles >= 3
	})
	for i, l := range loads {
		l.end(t)
		if l.broken > 0 {
			t.Errorf("slot %d: %d requests failed", i, l.broken)
		}
		if l.goAways < 2 { // the last one may still be on its way
			t.Errorf("slot %d: %d GoAways", i, l.goAways)
		}
	}
}

func TestRecycleOnRequestAndFailedReplacement(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	st := r.await("all serve", allServe)
	r.write("mode", modeAbsent)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := QueryRecycle(ctx, r.c.SocketDir); err != nil {
		t.Fatal(err)
	}
	now := r.await("replacements fail", func(st *Status) bool {
		return st.Workers[0].LastError != "" && st.Workers[1].LastError != ""
	})
	for i := range now.Workers {
		if now.Workers[i].PID != st.Workers[i].PID || now.Workers[i].State != stateServing {
			t.Errorf("the old worker does not serve on: %+v", now.Workers[i])
		}
	}
	_ = os.Remove(r.path("mode"))
	r.await("both are replaced", func(now *Status) bool {
		return allServe(now) && now.Workers[0].PID != st.Workers[0].PID && now.Workers[1].PID != st.Workers[1].PID
	})
}

// One wrong PIN, one login: over four workers, and over a restart, until an
// operator says otherwise.
func TestWrongPINLatches(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Workers = 4 })
	r.write("mode", modeRefuse)
	r.start()
	stopped := func(st *Status) bool {
		for _, w := range st.Workers {
			if w.State != stateStopped {
				return false
			}
		}
		return st.Login == LoginStopped
	}
	st := r.await("logins are stopped", stopped)
	if st.Latch == nil || st.Latch.Reason == "" || st.Hint == "" {
		t.Errorf("the status does not say why and what to do: %+v", st)
	}
	time.Sleep(500 * time.Millisecond)
	r.stopNow()
	r.start()
	r.await("logins are still stopped", stopped)
	time.Sleep(500 * time.Millisecond)
	if n := r.logins(); n != 1 {
		t.Fatalf("%d logins with a wrong PIN", n)
	}
	report := Check(context.Background(), r.c, r.options())
	if report.OK || report.Login != LoginStopped || r.logins() != 1 {
		t.Errorf("check with a latch: %+v, %d logins", report, r.logins())
	}

	_ = os.Remove(r.path("mode"))
	record, was, err := Unlock(r.c, false)
	if err != nil || !was || record.Reason != reasonPINRefused {
		t.Fatalf("dry unlock: %+v, %v, %v", record, was, err)
	}
	time.Sleep(2 * latchPoll)
	if n := r.logins(); n != 1 {
		t.Fatalf("a dry unlock unlocked: %d logins", n)
	}
	if _, _, err := Unlock(r.c, true); err != nil {
		t.Fatal(err)
	}
	r.await("all serve", func(st *Status) bool { return allServe(st) && st.Login == LoginOK })
	if _, was, err := Unlock(r.c, true); err != nil || was {
		t.Errorf("second unlock: %v, %v", was, err)
	}
	log := r.read("log")
	if strings.Contains(log, testPIN) {
		t.Error("the PIN is in the log")
	}
	if !strings.Contains(log, "tapseal-hsm unlock") {
		t.Error("the log does not say what to do")
	}
}

// A latch that appears while the supervisor runs, from a check in another
// process, counts as well.
func TestLatchOfAnotherProcess(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Workers = 1 })
	r.start()
	st := r.await("all serve", allServe)
	if err := newLatch(r.c.StateDir).set(LatchRecord{Time: time.Now(), Reason: reasonPINRefused}); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(st.Workers[0].PID, syscall.SIGKILL)
	r.await("logins are stopped", func(st *Status) bool { return st.Login == LoginStopped })
	if n := r.logins(); n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestCrashesInLoginLatch(t *testing.T) {
	r := newRig(t, nil)
	r.write("mode", modeCrash)
	r.start()
	r.await("logins are stopped", func(st *Status) bool { return st.Login == LoginStopped })
	if n := r.logins(); n != maxUnknownLogins {
		t.Errorf("%d logins, want %d", n, maxUnknownLogins)
	}
}

// A token that is away is waited for, and is back within 2 s.
func TestTokenComesBack(t *testing.T) {
	r := newRig(t, nil)
	r.write("mode", modeAbsent)
	r.start()
	r.await("several tries", func(st *Status) bool { return st.Logins["failed"] >= 6 })
	_ = os.Remove(r.path("mode"))
	back := time.Now()
	r.await("all serve", allServe)
	if took := time.Since(back); took > 2*time.Second {
		t.Errorf("back after %s", took)
	}
}

func TestLyingWorkerIsKilled(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Workers = 1 })
	r.write("mode", modeLie)
	r.start()
	r.await("it was noticed", func(st *Status) bool { return st.Workers[0].LastError != "" })
	if !strings.Contains(r.read("log"), "does not keep to the protocol") {
		t.Error("the log does not say so")
	}
}

func TestPINIsNowhere(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	st := r.await("all serve", allServe)
	for _, w := range st.Workers {
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", w.PID, file))
			if err != nil && !os.IsPermission(err) {
				t.Fatal(err)
			}
			if bytes.Contains(data, []byte(testPIN)) {
				t.Errorf("the PIN is in %s", file)
			}
			if file == "environ" && err == nil && bytes.Contains(data, []byte("HOME=")) {
				t.Error("the worker has more than the configured environment")
			}
		}
		if w.ResidentBytes == 0 {
			t.Error("no resident size")
		}
	}
	if !strings.Contains(r.read("logins"), testPIN) {
		t.Error("the worker did not get the PIN: this test proves nothing")
	}
	r.stopNow()
	if strings.Contains(r.read("log"), testPIN) {
		t.Error("the PIN is in the log")
	}
}

func TestSecondSupervisorIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	r.await("all serve", allServe)
	if _, err := New(r.c, r.options()); err == nil || !strings.Contains(err.Error(), "another supervisor") {
		t.Errorf("got %v", err)
	}
	r.await("the first one still serves", allServe)
}

func TestStopRemovesSockets(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	st := r.await("all serve", allServe)
	r.stopNow()
	left, err := os.ReadDir(r.c.SocketDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("%s is left", e.Name())
	}
	for _, w := range st.Workers {
		if err := syscall.Kill(w.PID, 0); err == nil {
			t.Errorf("worker %d is left", w.Slot)
		}
	}
}

func TestStatusSocketRefuses(t *testing.T) {
	r := newRig(t, nil)
	r.start()
	for _, op := range []string{"unlock", "", "\x00"} {
		var answer refusal
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err := query(ctx, r.c.SocketDir, op, &answer)
		cancel()
		if err != nil || answer.Error == "" {
			t.Errorf("%q: %+v, %v", op, answer, err)
		}
	}
}

func TestCheck(t *testing.T) {
	r := newRig(t, nil)
	if err := os.Mkdir(r.c.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	report := Check(context.Background(), r.c, r.options())
	if report.Login != LoginOK || len(report.Keys) != 3 || report.OK {
		t.Errorf("%+v", report)
	}
	if len(report.Problems) != 1 || report.Problems[0].Key != "manifest" || !strings.Contains(report.Problems[0].Problem, "visa-absent") {
		t.Errorf("problems: %+v", report.Problems)
	}
	for mode, want := range map[string]struct{ key, login string }{
		modeAbsent: {"token_label", LoginNotTried},
		modeRefuse: {"pin_file", LoginStopped},
	} {
		r := newRig(t, nil)
		if err := os.Mkdir(r.c.StateDir, 0o700); err != nil {
			t.Fatal(err)
		}
		r.write("mode", mode)
		report := Check(context.Background(), r.c, r.options())
		if len(report.Problems) != 1 || report.Problems[0].Key != want.key || report.Login != want.login {
			t.Errorf("%s: %+v", mode, report)
		}
	}
}
