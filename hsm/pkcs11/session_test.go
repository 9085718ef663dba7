package pkcs11

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/worker"
)

// behindProxy puts testdata/proxy.c in front of the token's module and gives
// the path of the login log.
func (tt *testToken) behindProxy(tb testing.TB) (log string) {
	tb.Helper()
	dir := tb.TempDir()
	so := filepath.Join(dir, "proxy.so")
	out, err := exec.Command("cc", "-std=c11", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror",
		"-o", so, filepath.Join("testdata", "proxy.c"), "-ldl").CombinedOutput()
	if err != nil {
		tb.Fatalf("compiling the proxy: %v: %s", err, out)
	}
	log = filepath.Join(dir, "log")
	tb.Setenv("PROXY_MODULE", tt.cfg.Module)
	tb.Setenv("PROXY_LOG", log)
	tb.Setenv("PROXY_FAIL", "")
	tt.cfg.Module = so
	return log
}

func logins(tb testing.TB, log string) int {
	tb.Helper()
	return strings.Count(string(must1(os.ReadFile(log))(tb)), "C_Login")
}

// Warnings are errors here and not in the build, where a newer compiler's new
// warning would keep people from building at all.
func TestPlanCompilesWithoutWarnings(t *testing.T) {
	out, err := exec.Command("cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion",
		"-Werror", "-c", "-o", filepath.Join(t.TempDir(), "plan.o"), "plan.c").CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		log := tt.behindProxy(t)
		pin := []byte("0000-0000")
		_, err := Open(tt.cfg, pin, tt.manifest)
		if !errors.Is(err, ErrPINRefused) {
			t.Errorf("got %v", err)
		}
		if strings.Trim(string(pin), "\x00") != "" {
			t.Error("the PIN was not wiped")
		}
		if n := logins(t, log); n != 1 {
			t.Errorf("%d logins", n)
		}
		token := tt.open(t) // the right one still works, and is one login too
		must(t, token.Prove(tt.id(0)))
		if n := logins(t, log); n != 2 {
			t.Errorf("%d logins", n)
		}
	})
}

func TestEveryPINAnswerIsARefusal(t *testing.T) {
	tt := newTestToken(t, provider{}, 0)
	log := tt.behindProxy(t)
	for i, code := range []string{"a0", "a1", "a2", "a3", "a4"} {
		t.Setenv("PROXY_FAIL", "C_Login 1 "+code)
		if _, err := Open(tt.cfg, []byte(tt.pin), tt.manifest); !errors.Is(err, ErrPINRefused) {
			t.Errorf("code 0x%s: %v", code, err)
		}
		if n := logins(t, log); n != i+1 {
			t.Errorf("code 0x%s: %d logins", code, n-i)
		}
	}
	t.Setenv("PROXY_FAIL", "C_Login 1 30") // CKR_DEVICE_ERROR says nothing about the PIN
	if _, err := Open(tt.cfg, []byte(tt.pin), tt.manifest); errors.Is(err, ErrPINRefused) || !errors.Is(err, ErrModule) {
		t.Errorf("device error: %v", err)
	}
}

// CKR_USER_PIN_NOT_INITIALIZED is no judgement of the PIN, so the module is
// initialised again and the token asked again.
func TestTokenThatDeniesItsPINIsAskedAgain(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	log := tt.behindProxy(t)
	t.Setenv("PROXY_FAIL", "C_Login 1 102")
	token := tt.open(t)
	must(t, token.Prove(tt.id(0)))
	if n := logins(t, log); n != 2 {
		t.Errorf("%d logins", n)
	}
}

// One of five jobs fails in each of the calls; the others come out right, in a
// new session, and nothing is left behind.
func TestSessionIsReplacedAfterAnError(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	tt.behindProxy(t)
	token := tt.open(t)
	must(t, token.Prove(tt.id(0)))
	v := tt.manifest.Sets[0].Versions[0]
	before := sessionObjects(t, token)
	replaced := uint64(0)
	for _, spec := range []string{
		"C_DeriveKey 3 5", "C_EncryptInit 3 90", "C_Encrypt 3 5", "C_Encrypt 3 0", "C_DestroyObject 3 5",
	} {
		t.Setenv("PROXY_FAIL", spec)
		jobs := make([]*worker.Job, 5)
		for i := range jobs {
			jobs[i] = &worker.Job{Key: v.ID, Plan: canaryPlanFor(v)}
		}
		session := token.sessions.work
		token.Execute(jobs)
		for i, j := range jobs {
			if (j.Err != nil) != (i == 2) {
				t.Errorf("%s: job %d: %v", spec, i, j.Err)
			}
			want := cryptogram.Matched
			if i == 2 {
				want = cryptogram.NotRun
			}
			if got := j.Outcome.Steps[0].Status; got != want {
				t.Errorf("%s: job %d: status %d", spec, i, got)
			}
		}
		replaced++
		if s := token.Stats(); s.SessionsReplaced != replaced || s.Failures != replaced {
			t.Errorf("%s: %+v", spec, s)
		}
		if token.sessions.work == session {
			t.Errorf("%s: session was kept", spec)
		}
		if after := sessionObjects(t, token); after != before {
			t.Errorf("%s: session objects: %d before, %d after", spec, before, after)
		}
		must(t, token.Dead())
	}
}

// A failure in the middle of a plan that derives several keys leaves none of
// them, even before the session is closed.
func TestNoObjectSurvivesAFailedPlan(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	tt.behindProxy(t)
	token := tt.open(t)
	must(t, token.Prove(tt.id(0)))
	before := sessionObjects(t, token)
	plan := cryptogram.Plan{NumDerivations: 3, NumSteps: 1}
	for i := range 3 {
		plan.Derivations[i] = cryptogram.Derivation{Purpose: cryptogram.ForComputing}
	}
	plan.Steps[0] = cryptogram.Step{Op: cryptogram.EncryptBlock, Key: 3, CompareBytes: 8, DataBytes: 8}
	t.Setenv("PROXY_FAIL", "C_EncryptInit 1 5")
	token.engine.load(0, rootHandles{deriving: token.keystore.keys[tt.id(0)].handle}, &plan)
	if ran := token.engine.run(0, 1); ran != 1 || !token.engine.failed(0) {
		t.Fatal("the plan did not fail")
	}
	if after := sessionObjects(t, token); after != before {
		t.Errorf("session objects: %d before, %d after", before, after)
	}
}

func TestTheEpochEnds(t *testing.T) {
	for _, code := range []string{"b3", "101", "30", "31", "32", "190"} {
		t.Run(code, func(t *testing.T) {
			tt := newTestToken(t, provider{}, 1)
			tt.behindProxy(t)
			token := tt.open(t)
			must(t, token.Prove(tt.id(0)))
			v := tt.manifest.Sets[0].Versions[0]
			jobs := []*worker.Job{{Key: v.ID}, {Key: v.ID}, {Key: v.ID}}
			for _, j := range jobs {
				j.Plan = canaryPlanFor(v)
			}
			t.Setenv("PROXY_FAIL", "C_DeriveKey 2 "+code)
			token.Execute(jobs)
			must(t, jobs[0].Err) // finished before the end
			for _, j := range jobs[1:] {
				if !errors.Is(j.Err, ErrDead) || j.Outcome != (cryptogram.Outcome{}) {
					t.Errorf("after the end: %v", j.Err)
				}
			}
			if !errors.Is(token.Dead(), ErrDead) || !errors.Is(token.Prove(v.ID), ErrDead) {
				t.Error("the token is not dead")
			}
			t.Setenv("PROXY_FAIL", "")
			token.Execute(jobs[:1])
			if !errors.Is(jobs[0].Err, ErrDead) {
				t.Errorf("a dead token served: %v", jobs[0].Err)
			}
		})
	}
}

// An error of the module during a proof is no judgement of the key: the next
// try may succeed.
func TestErrorInAProofIsNotRemembered(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	tt.behindProxy(t)
	token := tt.open(t)
	t.Setenv("PROXY_FAIL", "C_DeriveKey 1 5")
	if err := token.Prove(tt.id(0)); err == nil || errors.Is(err, worker.ErrKeyUnproven) {
		t.Errorf("got %v", err)
	}
	must(t, token.Prove(tt.id(0)))
}

// Someone destroys a key while the worker runs: no answer under it any more,
// the key beside it serves on.
func TestKeyDestroyedBehindTheWorker(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 2)
		token := tt.open(t)
		gone, stays := tt.manifest.Sets[0].Versions[0], tt.manifest.Sets[0].Versions[1]
		must(t, token.Prove(gone.ID))
		must(t, token.Prove(stays.ID))
		before := sessionObjects(t, token)
		ctx, s := intruder(t, token)
		must(t, ctx.DestroyObject(s, token.keystore.keys[gone.ID].handle))
		for range 3 {
			jobs := []*worker.Job{
				{Key: stays.ID, Plan: canaryPlanFor(stays)},
				{Key: gone.ID, Plan: canaryPlanFor(gone)},
				{Key: stays.ID, Plan: canaryPlanFor(stays)},
			}
			token.Execute(jobs)
			must(t, jobs[0].Err)
			must(t, jobs[2].Err)
			if jobs[1].Err == nil || jobs[1].Outcome != (cryptogram.Outcome{}) {
				t.Error("a key that is gone served")
			}
		}
		if err := token.Prove(gone.ID); !errors.Is(err, worker.ErrKeyUnproven) {
			t.Errorf("Prove: %v", err)
		}
		if s := token.Stats(); s.SessionsReplaced != 1 {
			t.Errorf("%d sessions replaced, the refusal must be remembered", s.SessionsReplaced)
		}
		if after := sessionObjects(t, token); after != before {
			t.Errorf("session objects: %d before, %d after", before, after)
		}
	})
}

// Another process takes the key away: here, the files of SoftHSM's object.
func TestKeyDestroyedByAnotherProcess(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	token := tt.open(t)
	v := tt.manifest.Sets[0].Versions[0]
	must(t, token.Prove(v.ID))
	files := must1(filepath.Glob(filepath.Join(filepath.Dir(os.Getenv("SOFTHSM2_CONF")), "tokens", "*", "*.object")))(t)
	removed := 0
	for _, f := range files {
		if filepath.Base(f) != "token.object" {
			must(t, os.Remove(f))
			removed++
		}
	}
	if removed != 1 {
		t.Fatalf("%d objects", removed)
	}
	for range 2 {
		job := worker.Job{Key: v.ID, Plan: canaryPlanFor(v)}
		token.Execute([]*worker.Job{&job})
		if job.Err == nil || job.Outcome != (cryptogram.Outcome{}) {
			t.Error("a key that is gone served")
		}
	}
}

func TestTokenIsNamedExactly(t *testing.T) {
	tt := newTestToken(t, provider{}, 0)
	slot := uint(1 << 40)
	for name, cfg := range map[string]Config{
		"label":  {TokenLabel: "another"},
		"prefix": {TokenLabel: testLabel[:4]},
		"serial": {TokenLabel: testLabel, TokenSerial: "0000"},
		"slot":   {TokenLabel: testLabel, Slot: &slot},
		"none":   {},
	} {
		cfg.Module = tt.cfg.Module
		if _, err := Open(cfg, []byte(tt.pin), tt.manifest); !errors.Is(err, ErrTokenNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, module := range []string{"", "/nonexistent.so", tt.pinFile} {
		if _, err := Open(Config{Module: module, TokenLabel: testLabel}, []byte(tt.pin), tt.manifest); !errors.Is(err, ErrModule) {
			t.Errorf("module %q: %v", module, err)
		}
	}
}

func TestTwoTokensOfOneLabel(t *testing.T) {
	tt := newTestToken(t, provider{}, 0)
	m, err := loadModule(tt.cfg)
	must(t, err)
	must(t, m.initialise())
	slots := must1(m.ctx.GetSlotList(true))(t)
	must(t, m.ctx.InitToken(slots[len(slots)-1], "12345678", testLabel)) // the free slot is the last
	m.finalise()
	_, err = Open(tt.cfg, []byte(tt.pin), tt.manifest)
	if !errors.Is(err, ErrTokenNotFound) || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("got %v", err)
	}
}

// deriveAndKeep derives as plan.c does, but keeps the object. The derivation
// input must be in C memory: the engine has some.
func deriveAndKeep(tb testing.TB, token *Token, base p11.ObjectHandle, computing bool) p11.ObjectHandle {
	tb.Helper()
	input := &token.engine.jobs[0].derivations[0].input
	param := binary.NativeEndian.AppendUint64(nil, uint64(uintptr(unsafe.Pointer(input))))
	param = binary.NativeEndian.AppendUint64(param, uint64(len(input)))
	tmpl := cardKeyForDeriving()
	if computing {
		tmpl = keyForComputing()
	}
	h, err := token.module.ctx.DeriveKey(token.sessions.work,
		[]*p11.Mechanism{p11.NewMechanism(p11.CKM_DES3_ECB_ENCRYPT_DATA, param)}, base, tmpl.attributes())
	must(tb, call("C_DeriveKey", err))
	return h
}
