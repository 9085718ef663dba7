package pkcs11

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// openResident opens a token with resident keys and proves all of them.
func (tt *testToken) openResident(tb testing.TB) (*Token, *bytes.Buffer) {
	tb.Helper()
	var log bytes.Buffer
	tt.cfg.ResidentKeys, tt.cfg.Log = true, slog.New(slog.NewTextHandler(&log, nil))
	token := tt.open(tb)
	for _, v := range tt.manifest.Sets[0].Versions {
		must(tb, token.Prove(v.ID))
	}
	return token, &log
}

func (tt *testToken) held(token *Token, i int) *heldKey { return token.keystore.keys[tt.id(i)] }

// serves runs the canary of one key as a job.
func (tt *testToken) serves(token *Token, i int) error {
	job := worker.Job{Key: tt.id(i), Plan: canaryPlanFor(tt.manifest.Sets[0].Versions[i])}
	token.Execute([]*worker.Job{&job})
	if job.Err == nil && job.Outcome.Steps[0].Status != cryptogram.Matched {
		return errors.New("the canary did not match")
	}
	if job.Err != nil && job.Outcome != (cryptogram.Outcome{}) {
		return errors.New("an error with an outcome")
	}
	return job.Err
}

// lookLongAgo makes the next use look for the token objects.
func (t *Token) lookLongAgo() { t.residents.looked = time.Time{} }

func TestResidentCopies(t *testing.T) {
	const n = 3
	tt := newTestToken(t, provider{nss: true}, n)
	token, log := tt.openResident(t)
	if s := token.Stats(); s.ResidentKeys != n || s.NotResident != 0 || log.Len() != 0 {
		t.Errorf("%+v, log %s", s, log)
	}
	for i := range n {
		k := tt.held(token, i)
		if k.root() == k.handle {
			t.Errorf("key %d is not used from a copy", i)
		}
		faults, err := compareTemplate(token.module.ctx, token.sessions.work, k.root(), residentOf(keys.UseIssuerAC))
		must(t, err)
		if len(faults) != 0 {
			t.Errorf("key %d: %v", i, faults)
		}
		ctx, s := intruder(t, token)
		for _, a := range []*p11.Attribute{p11.NewAttribute(p11.CKA_ENCRYPT, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, true)} {
			if ctx.SetAttributeValue(s, k.root(), []*p11.Attribute{a}) == nil {
				t.Errorf("key %d: attribute %#x of a copy could be changed", i, a.Type)
			}
		}
		must(t, tt.serves(token, i))
		must(t, token.Prove(tt.id(i))) // again: the same copy
	}
	if got := sessionObjects(t, token); got != n {
		t.Errorf("%d session objects, want %d", got, n)
	}
}

// SoftHSM refuses to copy a key that is not copyable: that is said once, and
// everything else is as before.
func TestResidentWhereTheTokenRefuses(t *testing.T) {
	tt := newTestToken(t, provider{}, 2)
	token, log := tt.openResident(t)
	for i := range 2 {
		must(t, tt.serves(token, i))
	}
	if s := token.Stats(); s.ResidentKeys != 0 || s.NotResident != 2 || s.Failures != 0 || s.SessionsReplaced != 0 {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "C_CopyObject: pkcs11: 0x1B: CKR_ACTION_PROHIBITED") {
		t.Errorf("%d lines: %s", n, log)
	}
}

// Copies belong to the session that stays.
func TestResidentCopiesOutliveTheWorkingSession(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 2)
	tt.behindProxy(t)
	token, _ := tt.openResident(t)
	copied := tt.held(token, 0).root()
	t.Setenv("PROXY_FAIL", "C_Encrypt 1 5")
	if err := tt.serves(token, 0); err == nil {
		t.Fatal("no failure")
	}
	for i := range 2 {
		must(t, tt.serves(token, i))
	}
	if s := token.Stats(); s.SessionsReplaced != 1 || s.ResidentKeys != 2 || tt.held(token, 0).root() != copied {
		t.Errorf("%+v", s)
	}
}

// A destroyed key lives on in its copy; the process must let go of it.
func TestResidentKeyDestroyedByAnotherProcess(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 2)
	token, _ := tt.openResident(t)
	must(t, tt.serves(token, 0))
	tt.destroyElsewhere(t, tt.id(0))
	begun := time.Now()
	var err error
	for err == nil && time.Since(begun) < 3*lookEvery {
		err = tt.serves(token, 0)
		must(t, tt.serves(token, 1))
	}
	if took := time.Since(begun); !errors.Is(err, worker.ErrKeyUnproven) || took > lookEvery+500*time.Millisecond {
		t.Errorf("after %s: %v", took, err)
	}
	if got := sessionObjects(t, token); got != 1 {
		t.Errorf("%d session objects, want the copy of the key that stays", got)
	}
	for range 2 {
		if err := tt.serves(token, 0); !errors.Is(err, worker.ErrKeyUnproven) {
			t.Errorf("served again: %v", err)
		}
		must(t, tt.serves(token, 1))
	}
	if s := token.Stats(); s.ResidentKeys != 1 || s.SessionsReplaced != 1 {
		t.Errorf("%+v", s)
	}
}

// A health check notices at once, however lately the key was used.
func TestResidentKeyDestroyedBeforeAProof(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 1)
	token, _ := tt.openResident(t)
	tt.destroyElsewhere(t, tt.id(0))
	for range 2 {
		if err := token.Prove(tt.id(0)); !errors.Is(err, worker.ErrKeyUnproven) {
			t.Errorf("Prove: %v", err)
		}
		if err := tt.serves(token, 0); !errors.Is(err, worker.ErrKeyUnproven) {
			t.Errorf("Execute: %v", err)
		}
	}
	if got := sessionObjects(t, token); got != 0 {
		t.Errorf("%d session objects", got)
	}
}

func TestResidentKeyWithAnotherID(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 2)
	token, _ := tt.openResident(t)
	k := tt.held(token, 0)
	must(t, tt.serves(token, 0)) // looks
	k.handle = tt.held(token, 1).handle
	must(t, tt.serves(token, 0)) // that was a moment ago
	token.lookLongAgo()
	if err := tt.serves(token, 0); !errors.Is(err, worker.ErrKeyUnproven) || !strings.Contains(err.Error(), otherIDText) {
		t.Errorf("got %v", err)
	}
	must(t, tt.serves(token, 1))
}

// Without a right answer from the token nothing is computed; the next look may
// succeed.
func TestErrorInALookIsNotRemembered(t *testing.T) {
	for _, failing := range []string{"C_FindObjectsInit", "C_GetAttributeValue"} {
		t.Run(failing, func(t *testing.T) {
			tt := newTestToken(t, provider{nss: true}, 2)
			tt.behindProxy(t)
			token, _ := tt.openResident(t)
			token.lookLongAgo()
			t.Setenv("PROXY_FAIL", failing+" 1 5")
			if err := tt.serves(token, 0); err == nil || errors.Is(err, worker.ErrKeyUnproven) {
				t.Errorf("got %v", err)
			}
			must(t, tt.serves(token, 0))
			must(t, tt.serves(token, 1))
			if s := token.Stats(); s.SessionsReplaced != 1 || s.ResidentKeys != 2 {
				t.Errorf("%+v", s)
			}
			token.lookLongAgo()
			t.Setenv("PROXY_FAIL", failing+" 1 101")
			for range 2 {
				if err := tt.serves(token, 0); !errors.Is(err, ErrDead) || !errors.Is(token.Dead(), ErrDead) {
					t.Errorf("got %v, dead: %v", err, token.Dead())
				}
			}
		})
	}
}

// The ids of many keys are read in turn, so that a look stays cheap.
func TestIDsAreReadInTurn(t *testing.T) {
	const n = 3*idsInALook - 5
	tt := newTestToken(t, provider{nss: true}, 0)
	tt.addKeys(t, n)
	token, _ := tt.openResident(t)
	for i := range n { // the search goes on finding all of them
		tt.held(token, i).version.ID[0] ^= 1
	}
	for look := range 3 {
		if got, want := token.Stats().ResidentKeys, uint64(max(0, n-look*idsInALook)); got != want {
			t.Errorf("%d keys after %d looks, want %d", got, look, want)
		}
		token.lookLongAgo()
		_ = tt.serves(token, 0)
	}
	if got := token.Stats().ResidentKeys; got != 0 {
		t.Errorf("%d keys were never looked at", got)
	}
}

// A module may show an object under another handle; then the object decides.
func TestKeyThatTheSearchDoesNotShow(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 0)
	tt.addKeys(t, 2*idsInALook)
	token, _ := tt.openResident(t)
	clear(token.keystore.byHandle)
	for i := range 2 * idsInALook {
		token.lookLongAgo()
		must(t, tt.serves(token, i))
	}
}

func TestAnswersToACopy(t *testing.T) {
	for _, c := range []struct {
		name, fail   string
		copies, left uint64 // resident keys, keys left in the token
		wantErr      error
	}{
		{"not copyable", "C_CopyObject 1 1b", 0, 1, nil},
		{"no such function", "C_CopyObject 1 54", 0, 1, nil},
		{"no room", "C_CopyObject 1 31", 0, 1, nil},
		{"gone", "C_CopyObject 1 82", 0, 0, worker.ErrKeyUnproven},
		{"logged out", "C_CopyObject 1 101", 0, 0, ErrDead},
		{"device error", "C_CopyObject 1 30", 0, 0, ErrDead},
		{"copy does not derive", "C_DeriveKey 2 68", 0, 1, nil},
		{"copy is not found", "C_DeriveKey 2 60", 0, 1, nil},
		{"copy leaves a child", "C_DestroyObject 2 5", 0, 1, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tt := newTestToken(t, provider{nss: true}, 1)
			tt.behindProxy(t)
			tt.cfg.ResidentKeys = true
			token := tt.open(t)
			t.Setenv("PROXY_FAIL", c.fail)
			if err := token.Prove(tt.id(0)); !errors.Is(err, c.wantErr) {
				t.Errorf("Prove: %v", err)
			}
			t.Setenv("PROXY_FAIL", "")
			if err := tt.serves(token, 0); !errors.Is(err, c.wantErr) {
				t.Errorf("Execute: %v", err)
			}
			if s := token.Stats(); s.ResidentKeys != c.copies || s.NotResident != c.left {
				t.Errorf("%+v", s)
			}
			if got := sessionObjects(t, token); token.Dead() == nil && got != int(c.copies) {
				t.Errorf("%d session objects", got)
			}
		})
	}
}

// A copy with another value or other attributes is destroyed and never used.
func TestWrongCopyIsNotUsed(t *testing.T) {
	other := keyForComputing()
	for name, tmpl := range map[string]template{"value": residentOf(keys.UseIssuerAC).everywhereKnown(), "attributes": other} {
		t.Run(name, func(t *testing.T) {
			tt := newTestToken(t, provider{nss: true}, 1)
			token, log := tt.openResident(t)
			k := tt.held(token, 0)
			value := tt.values[k.version.ID]
			if name == "value" {
				_, value = randomKey()
			}
			ctx, s := token.module.ctx, token.sessions.holder
			must(t, ctx.DestroyObject(s, k.copied))
			var err error
			k.copied, err = ctx.CreateObject(s, tmpl.attributes(
				p11.NewAttribute(p11.CKA_ID, k.version.ID[:]), p11.NewAttribute(p11.CKA_VALUE, value[:])))
			must(t, err)
			must(t, token.Prove(tt.id(0)))
			must(t, tt.serves(token, 0))
			if s := token.Stats(); s.ResidentKeys != 0 || s.NotResident != 1 || k.root() != k.handle || log.Len() == 0 {
				t.Errorf("%+v, log %q", s, log)
			}
			if got := sessionObjects(t, token); got != 0 {
				t.Errorf("%d session objects", got)
			}
		})
	}
}

// A module that loses a copy may give its handle to another object.
func TestLostCopyEndsTheEpoch(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 2)
	token, _ := tt.openResident(t)
	must(t, token.module.ctx.DestroyObject(token.sessions.holder, tt.held(token, 0).copied))
	must(t, tt.serves(token, 1))
	if err := tt.serves(token, 0); !errors.Is(err, ErrDead) {
		t.Errorf("got %v", err)
	}
	if err := tt.serves(token, 1); !errors.Is(err, ErrDead) {
		t.Errorf("got %v", err)
	}
}

// A copy that stays although it should go ends the process.
func TestCopyThatCannotBeDestroyedEndsTheEpoch(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 1)
	tt.behindProxy(t)
	token, _ := tt.openResident(t)
	tt.destroyElsewhere(t, tt.id(0))
	token.lookLongAgo()
	t.Setenv("PROXY_FAIL", "C_DestroyObject 1 5")
	if err := tt.serves(token, 0); err == nil {
		t.Error("served")
	}
	if !errors.Is(token.Dead(), ErrDead) {
		t.Error("the token is not dead")
	}
}

func TestResidentExecuteAllocatesNothing(t *testing.T) {
	tt := newTestToken(t, provider{nss: true}, 1)
	token, _ := tt.openResident(t)
	v := tt.manifest.Sets[0].Versions[0]
	jobs := []*worker.Job{{Key: v.ID, Plan: canaryPlanFor(v)}, {Key: v.ID, Plan: canaryPlanFor(v)}}
	token.Execute(jobs) // looks
	n := testing.AllocsPerRun(50, func() { token.Execute(jobs) })
	must(t, jobs[1].Err)
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// A destruction tells the other process which key to take away.
type destruction struct {
	Module, ModuleArgs, PIN string
	ID                      keys.ID
}

func (tt *testToken) destroyElsewhere(tb testing.TB, id keys.ID) {
	tb.Helper()
	module := tt.cfg.Module
	if behind := os.Getenv("PROXY_MODULE"); behind != "" {
		module = behind
	}
	order := must1(json.Marshal(destruction{Module: module, ModuleArgs: tt.cfg.ModuleArgs, PIN: tt.pin, ID: id}))(tb)
	cmd := exec.Command(os.Args[0], "destroy")
	cmd.Stdin = bytes.NewReader(order)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("destroying a key: %v: %s", err, out)
	}
}

// destroyKey is the other process.
func destroyKey(r io.Reader) error {
	var d destruction
	if err := json.NewDecoder(r).Decode(&d); err != nil {
		return err
	}
	a, err := openAdmin(Config{Module: d.Module, ModuleArgs: d.ModuleArgs, TokenLabel: testLabel}, readWrite, []byte(d.PIN))
	if err != nil {
		return err
	}
	defer a.close()
	found, err := findObjects(a.module.ctx, a.sessions.work, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_ID, d.ID[:]), p11.NewAttribute(p11.CKA_TOKEN, true),
	})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return errors.New("not exactly one object has this id")
	}
	return a.module.ctx.DestroyObject(a.sessions.work, found[0])
}
