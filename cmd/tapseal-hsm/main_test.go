package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/frame"
	"github.com/tapseal/tapseal/hsm/scratch"
	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/buildinfo"
	"github.com/tapseal/tapseal/internal/workertest"
	"github.com/tapseal/tapseal/keys"
)

// The test binary is tapseal-hsm as well, if its first argument is a command.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

const (
	testPIN  = "3390-8112"
	patience = 30 * time.Second
)

// A site is a directory with a SoftHSM token, a key and a configuration.
type site struct {
	t      *testing.T
	dir    string
	key    keys.Version // as made by the admin role
	c      supervisor.Config
	log    *os.File
	daemon *exec.Cmd
	ended  chan error
}

func newSite(t *testing.T) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "site") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, dir: dir}
	module, err := scratch.FindSoftHSM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path("tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.write("softhsm2.conf", "directories.tokendir = "+s.path("tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	s.write("pin", testPIN+"\n")
	s.c = supervisor.Config{
		Module: module, ModuleSHA256: hashOf(t, module), TokenLabel: admin.LabelPrefix + "-cmd", PINFile: "pin", Manifest: "manifest.yaml",
		SocketDir: "run", StateDir: "state", Workers: 2,
		Environment: map[string]string{"SOFTHSM2_CONF": s.path("softhsm2.conf")},
	}
	s.act(admin.Act{Operation: admin.InitToken})
	made := s.act(admin.Act{Operation: admin.ImportDemoKey, Key: &admin.DemoKey{Label: "visa", Value: workertest.VisaKey}}).Key
	s.key = keys.Version{Number: 1, ID: made.ID, State: keys.Active, CheckValue: made.CheckValue, Canary: made.Canary}
	s.configure()
	if s.log, err = os.OpenFile(s.path("log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.log.Close() })
	return s
}

func hashOf(t *testing.T, module string) string {
	t.Helper()
	h, err := worker.HashModule(module)
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) logged() string {
	data, err := os.ReadFile(s.path("log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

func (s *site) act(a admin.Act) admin.Result {
	s.t.Helper()
	a.TokenLabel, a.PINFile = s.c.TokenLabel, s.path("pin")
	r, err := admin.Run(context.Background(), admin.Options{
		Binary: os.Args[0], Module: s.c.Module, Environ: []string{"SOFTHSM2_CONF=" + s.path("softhsm2.conf")},
	}, a)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// configure writes manifest and configuration.
func (s *site) configure() {
	s.t.Helper()
	m := keys.Manifest{Deployment: "test", Sets: []keys.Set{{
		Name: "visa", Use: keys.UseIssuerAC, Profiles: []cryptogram.ProfileID{cryptogram.VisaCVN10, cryptogram.VisaCVN18},
		Versions: []keys.Version{s.key},
	}}}
	manifest, err := m.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("manifest.yaml", string(manifest))
	config, err := s.c.Marshal()
	if err != nil {
		s.t.Fatal(err)
	}
	s.write("hsm.yaml", string(config))
}

// run runs one command to its end.
func (s *site) run(args ...string) (stdout, stderr string, status int) {
	s.t.Helper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(os.Args[0], args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// supervise starts the supervisor until the test ends.
func (s *site) supervise(args ...string) {
	s.t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"supervise", "--config", s.path("hsm.yaml")}, args...)...)
	cmd.Stderr = s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.daemon, s.ended = cmd, make(chan error, 1)
	ended := s.ended
	go func() { ended <- cmd.Wait() }()
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
}

func (s *site) end() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		s.t.Fatal("the supervisor does not end")
		return nil
	}
}

// await polls the status until ok.
func (s *site) await(what string, ok func(*supervisor.Status) bool) *supervisor.Status {
	s.t.Helper()
	var st *supervisor.Status
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		var err error
		st, err = supervisor.QueryStatus(ctx, s.path("run"))
		cancel()
		if err == nil && ok(st) {
			return st
		}
		if time.Since(start) > patience {
			s.t.Fatalf("waited too long until %s: %v %+v\n%s", what, err, st, s.logged())
		}
	}
}

func serving(st *supervisor.Status) bool {
	for _, w := range st.Workers {
		if w.State != "serving" {
			return false
		}
	}
	return true
}

func (s *site) socket(n int) string { return s.path(fmt.Sprintf("run/worker-%d.sock", n)) }

func (s *site) item(n uint32) frame.Item {
	it := workertest.Item(workertest.VisaKey, cryptogram.VisaCVN18, n)
	it.Key = s.key.ID
	return it
}

func (s *site) dial(n int) *workertest.Client {
	s.t.Helper()
	c, err := workertest.Dial(s.socket(n), patience)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = c.Conn.SetDeadline(time.Now().Add(patience))
	s.t.Cleanup(func() { _ = c.Conn.Close() })
	return c
}

func TestServesWithTheToken(t *testing.T) {
	s := newSite(t)
	begun := time.Now()
	s.supervise()
	st := s.await("all serve", serving)
	t.Logf("ready after %s", time.Since(begun).Round(time.Millisecond))
	for n := range st.Workers {
		c := s.dial(n)
		if h, err := c.Health(1); err != nil || h != frame.StatusMatched {
			t.Fatalf("health: %x, %v", h, err)
		}
		genuine := s.item(1)
		items := []frame.Item{genuine}
		for bit := range 64 { // every bit of the cryptogram
			it := workertest.Spoil(genuine, bit)
			it.ID = uint64(2 + bit)
			items = append(items, it)
		}
		got, err := c.Verify(items...)
		if err != nil {
			t.Fatal(err)
		}
		arpc, size := workertest.ARPC(workertest.VisaKey, &genuine)
		if r := got[1]; r.Status != frame.StatusMatched || r.ARPC != arpc || r.ARPCBytes != size {
			t.Errorf("genuine: status %x, or a wrong ARPC", r.Status)
		}
		for id, r := range got {
			if id != 1 && r.Status != frame.StatusMismatched {
				t.Errorf("bit %d flipped: status %x", id-2, r.Status)
			}
		}
	}
	s.nothingLeaks(st)
	_ = s.daemon.Process.Signal(syscall.SIGTERM)
	if err := s.end(); err != nil {
		t.Errorf("after SIGTERM: %v\n%s", err, s.logged())
	}
	if strings.Contains(s.logged(), testPIN) {
		t.Error("the PIN is in the log")
	}
}

// nothingLeaks looks at what the kernel tells other processes.
func (s *site) nothingLeaks(st *supervisor.Status) {
	s.t.Helper()
	pids := []int{s.daemon.Process.Pid}
	for _, w := range st.Workers {
		pids = append(pids, w.PID)
	}
	for i, pid := range pids {
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil && !os.IsPermission(err) {
				s.t.Fatal(err)
			}
			if bytes.Contains(data, []byte(testPIN)) {
				s.t.Errorf("the PIN is in %s of process %d", file, i)
			}
		}
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			s.t.Fatal(err)
		}
		for line := range strings.Lines(string(limits)) {
			if strings.HasPrefix(line, "Max core file size") && strings.Fields(line)[4] != "0" {
				s.t.Errorf("process %d may dump core: %s", i, line)
			}
		}
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err == nil && i == 0 && bytes.Contains(maps, []byte("libsofthsm2")) {
			s.t.Error("the supervisor has loaded the module")
		}
	}
}

// Workers do not outlive their supervisor, however it ends.
func TestSupervisorGone(t *testing.T) {
	s := newSite(t)
	s.supervise()
	st := s.await("all serve", serving)
	_ = s.daemon.Process.Kill()
	_ = s.end()
	for _, w := range st.Workers {
		for start := time.Now(); syscall.Kill(w.PID, 0) == nil; time.Sleep(10 * time.Millisecond) {
			if time.Since(start) > 5*time.Second {
				t.Fatalf("worker %d is still there", w.Slot)
			}
		}
	}
	s.supervise() // in place of the dead one, its sockets and locks
	s.await("all serve again", serving)
}

func TestStdinCloses(t *testing.T) {
	s := newSite(t)
	s.supervise("--exit-on-stdin-close") // standard input is empty
	if err := s.end(); err != nil {
		t.Errorf("%v\n%s", err, s.logged())
	}
}

// Workers on the token are killed under load: what is answered is right.
func TestKilledUnderLoad(t *testing.T) {
	s := newSite(t)
	s.supervise()
	s.await("all serve", serving)
	stop, done := make(chan struct{}), make(chan struct{})
	answered := 0
	go func() {
		defer close(done)
		for n := uint32(1); ; {
			c, err := workertest.Dial(s.socket(0), 200*time.Millisecond)
			for err == nil {
				select {
				case <-stop:
					_ = c.Conn.Close()
					return
				default:
				}
				n += 3
				_ = c.Conn.SetDeadline(time.Now().Add(patience))
				var got map[uint64]frame.Reply
				got, err = c.Verify(s.item(n), s.item(n+1), workertest.Spoil(s.item(n+2), int(n)))
				for id, r := range got {
					want := frame.StatusMatched
					if id == uint64(n+2) {
						want = frame.StatusMismatched
					}
					if r.Status != want {
						t.Errorf("status %x, want %x", r.Status, want)
					}
				}
				answered += len(got)
			}
		}
	}()
	for range 15 {
		st := s.await("worker 0 serves", func(st *supervisor.Status) bool { return st.Workers[0].State == "serving" })
		time.Sleep(20 * time.Millisecond)
		_ = syscall.Kill(st.Workers[0].PID, syscall.SIGKILL)
		killed := time.Now()
		s.await("another worker serves", func(now *supervisor.Status) bool {
			return now.Workers[0].State == "serving" && now.Workers[0].PID != st.Workers[0].PID
		})
		if took := time.Since(killed); took > 2*time.Second {
			t.Errorf("back after %s", took)
		}
	}
	close(stop)
	<-done
	if answered == 0 {
		t.Error("nothing was answered")
	}
}

func TestWrongPIN(t *testing.T) {
	s := newSite(t)
	s.write("pin", "0000-1111\n")
	s.supervise()
	stopped := func(st *supervisor.Status) bool {
		for _, w := range st.Workers {
			if w.State != "stopped" {
				return false
			}
		}
		return st.Login == supervisor.LoginStopped
	}
	st := s.await("logins are stopped", stopped)
	if st.Logins["refused"] != 1 || st.Logins["unknown"]+st.Logins["ok"]+st.Logins["failed"] != 0 {
		t.Errorf("logins: %v", st.Logins)
	}
	_ = s.daemon.Process.Kill()
	_ = s.end()
	s.write("pin", testPIN+"\n")
	s.supervise()
	st = s.await("logins are stopped after a restart", stopped)
	if len(st.Logins) != 0 {
		t.Errorf("logins with a latch: %v", st.Logins)
	}
	out, _, status := s.run("unlock", "--config", s.path("hsm.yaml"))
	if status != 0 || !strings.Contains(out, "nothing was changed") {
		t.Errorf("dry unlock: status %d, %s", status, out)
	}
	if out, _, status = s.run("unlock", "--config", s.path("hsm.yaml"), "--yes", "--json"); status != 0 {
		t.Errorf("unlock: status %d, %s", status, out)
	}
	s.await("all serve", serving)
	if log := s.logged(); strings.Contains(log, "0000-1111") || strings.Contains(log, testPIN) {
		t.Error("a PIN is in the log")
	}
}

func TestCheckCommand(t *testing.T) {
	s := newSite(t)
	if err := os.Mkdir(s.path("state"), 0o700); err != nil {
		t.Fatal(err)
	}
	check := func() (supervisor.CheckReport, int) {
		t.Helper()
		out, errOut, status := s.run("check", "--json", "--config", s.path("hsm.yaml"))
		var r supervisor.CheckReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v: %s%s", err, out, errOut)
		}
		return r, status
	}
	problem := func(key string) {
		t.Helper()
		r, status := check()
		if status != statusFailed || r.OK || len(r.Problems) != 1 || r.Problems[0].Key != key {
			t.Errorf("want a problem with %s: status %d, %+v", key, status, r)
		}
	}
	if r, status := check(); status != 0 || !r.OK || len(r.Keys) != 1 || !r.Keys[0].Proved || r.Login != supervisor.LoginOK {
		t.Errorf("status %d, %+v", status, r)
	}
	good := s.c
	s.c.TokenLabel = "nobody"
	s.configure()
	problem("token_label")
	s.c = good
	s.c.Module, s.c.ModuleSHA256 = s.path("pin"), hashOf(t, s.path("pin")) // no shared object
	s.configure()
	problem("module")
	s.c = good
	s.key.Canary[0] ^= 1
	s.configure()
	problem("manifest")
	s.key.Canary[0] ^= 1
	s.configure()
	s.write("pin", "0000-1111\n")
	problem("pin_file")
	s.write("pin", testPIN+"\n")
	problem("pin_file") // latched
	if out, errOut, status := s.run("check", "--config", s.path("nothing.yaml")); status != statusFailed || out != "" || errOut == "" {
		t.Errorf("no configuration: status %d, %s%s", status, out, errOut)
	}
}

// A key that is not the one of the manifest never serves.
func TestWrongKey(t *testing.T) {
	s := newSite(t)
	s.key.Canary[7] ^= 0x80
	s.configure()
	s.supervise()
	st := s.await("it was noticed", func(st *supervisor.Status) bool { return st.Workers[0].LastError != "" })
	if st.Login != supervisor.LoginOK || st.Workers[0].State == "serving" || !strings.Contains(st.Workers[0].LastError, "key-unproven") {
		t.Errorf("%+v", st)
	}
}

func TestUsage(t *testing.T) {
	s := &site{t: t}
	for _, args := range [][]string{{"supervise"}, {"nothing"}, {"version", "--xml"}} {
		if _, errOut, status := s.run(args...); status != statusUsage || !strings.Contains(errOut, "hint") {
			t.Errorf("%v: status %d, %s", args, status, errOut)
		}
	}
	out, _, status := s.run("version", "--json")
	var v buildinfo.Info
	if err := json.Unmarshal([]byte(out), &v); err != nil || status != 0 || v.Go == "" {
		t.Errorf("version: status %d, %v, %s", status, err, out)
	}
}
