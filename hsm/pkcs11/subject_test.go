package pkcs11

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// subjectSet is where the subject keys are in the manifest of a test token.
const subjectSet = 1

// addSubjectKey generates one and puts it in force.
func (tt *testToken) addSubjectKey(tb testing.TB) keys.Version {
	tb.Helper()
	made := tt.act(tb, admin.Act{Operation: admin.MakeSubjectKey, Label: "subjects"}).Key
	return tt.recordSubjectKey(*made)
}

func (tt *testToken) recordSubjectKey(made admin.MadeKey) keys.Version {
	if len(tt.manifest.Sets) == subjectSet {
		tt.manifest.Sets = append(tt.manifest.Sets, keys.Set{Name: "subjects", Use: keys.UseSubjectHash})
	}
	set := &tt.manifest.Sets[subjectSet]
	v := keys.Version{
		Number: uint32(len(set.Versions) + 1), ID: made.ID, State: keys.Active, CheckValue: made.CheckValue, Canary: made.Canary,
	}
	set.Versions = append(set.Versions, v)
	return v
}

func hmacOf(key, data []byte) (sum [keys.SubjectBytes]byte) {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	h.Sum(sum[:0])
	return sum
}

// plantSubjectKey makes a subject key of a known value behind the admin role's
// back, some attributes changed, with true check value and canary.
func (tt *testToken) plantSubjectKey(tb testing.TB, value []byte, change ...attribute) keys.Version {
	tb.Helper()
	a, err := openAdmin(tt.cfg, readWrite, []byte(tt.pin))
	must(tb, err)
	defer a.close()
	tmpl := subjectKey()
	var known template
	for _, line := range tmpl {
		for _, c := range change {
			if line.typ == c.typ {
				line.value = c.value
			}
		}
		if line.typ != p11.CKA_VALUE_LEN { // given by the value
			known = append(known, line)
		}
	}
	var made admin.MadeKey
	made.ID, _ = randomKey()
	check, canary := hmacOf(value, []byte(keys.SubjectCheckInput)), hmacOf(value, []byte(keys.SubjectCanaryInput))
	copy(made.CheckValue[:], check[:])
	copy(made.Canary[:], canary[:])
	must1(a.create(known,
		p11.NewAttribute(p11.CKA_ID, made.ID[:]),
		p11.NewAttribute(p11.CKA_LABEL, "planted"),
		p11.NewAttribute(p11.CKA_VALUE, value),
	))(tb)
	return tt.recordSubjectKey(made)
}

func randomValue(n int) []byte {
	a, b := randomKey()
	_, c := randomKey()
	return append(append(append([]byte{}, a[:]...), b[:]...), c[:]...)[:n]
}

// jobOf is a job for a random card, with its subject.
func (tt *testToken) jobOf(tb testing.TB, r *rand.Rand, profile cryptogram.ProfileID, right bool) *worker.Job {
	tb.Helper()
	prof, _ := cryptogram.LookupProfile(profile)
	req := randomRequest(tb, r, prof)
	id := tt.id(r.IntN(len(tt.values)))
	if right {
		makeRight(tb, tt.values[id], &req)
	}
	job := &worker.Job{Key: id, Subject: keys.NewSubjectInput(&req.PAN, req.PSN)}
	must(tb, cryptogram.BuildPlan(&req, &job.Plan))
	return job
}

// Random subjects: what the token hashes is HMAC-SHA-256, under one key, under
// two in a rotation, with and without resident keys, and alone.
func TestSubjectsAgainstSoftware(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 2)
		r := rand.New(rand.NewPCG(rand.Uint64(), 0))
		var values [][]byte
		for _, resident := range []bool{false, true} {
			for inForce := range 3 {
				tt.cfg.ResidentKeys = resident
				for len(values) < inForce {
					values = append(values, randomValue(keys.SubjectKeyBytes))
					tt.plantSubjectKey(t, values[len(values)-1])
				}
				if resident && inForce < 2 {
					continue // both are there since the round before
				}
				token := must1(Open(tt.cfg, []byte(tt.pin), tt.manifest))(t)
				checkSubjects(t, tt, token, r, values)
				must(t, token.Close())
			}
		}
	})
}

func checkSubjects(t *testing.T, tt *testToken, token *Token, r *rand.Rand, values [][]byte) {
	t.Helper()
	before := sessionObjects(t, token)
	for round := range 8 {
		jobs := make([]*worker.Job, 1+r.IntN(2*chunkJobs))
		for i := range jobs {
			jobs[i] = tt.jobOf(t, r, cryptogram.VisaCVN18, r.IntN(2) == 0)
			jobs[i].Subjects = [2]keys.Subject{{Version: 99}} // must be overwritten
		}
		token.Execute(jobs)
		for i, j := range jobs {
			must(t, j.Err)
			var want [2]keys.Subject
			for n := range values {
				version := len(values) - n
				want[n] = keys.Subject{Version: uint32(version), Hash: hmacOf(values[version-1], j.Subject.Bytes())}
			}
			if j.Subjects != want {
				t.Fatalf("round %d, job %d: the token and software differ", round, i)
			}
			alone, err := token.Hash(&j.Subject)
			if none := len(values) == 0; none && errors.Is(err, worker.ErrKeyUnknown) {
				continue
			}
			if must(t, err); alone != want {
				t.Fatalf("round %d, job %d: hashed alone, the token and software differ", round, i)
			}
		}
		if round == 0 { // resident copies are made by the first use
			before = sessionObjects(t, token)
		}
	}
	if after := sessionObjects(t, token); after != before {
		t.Errorf("session objects: %d before, %d after", before, after)
	}
}

// A generated key: read back, never seen, in the inventory without a fault.
func TestMakeSubjectKey(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		first, second := tt.addSubjectKey(t), tt.addSubjectKey(t)
		if first.ID == second.ID || first.Canary == second.Canary {
			t.Error("two keys are one")
		}
		token := tt.open(t)
		for _, v := range []keys.Version{first, second} {
			must(t, token.Prove(v.ID))
			k := token.keystore.keys[v.ID]
			ctx, s := intruder(t, token)
			for name, err := range map[string]error{
				"reading the value": must2(ctx.GetAttributeValue(s, k.handle, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})),
				"SIGN → ENCRYPT":    ctx.SetAttributeValue(s, k.handle, []*p11.Attribute{p11.NewAttribute(p11.CKA_ENCRYPT, true)}),
				"deriving": must2(ctx.DeriveKey(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_SHA256_KEY_DERIVATION, nil)}, k.handle,
					keyForComputing().attributes())),
				"verifying": ctx.VerifyInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_SHA256_HMAC, nil)}, k.handle),
			} {
				// NSS softokn derives from whatever may be used at all.
				if works := err == nil; works != (p.nss && name == "deriving") {
					t.Errorf("%s: works %t", name, works)
				}
			}
		}
		objects := tt.act(t, admin.Act{Operation: admin.Inventory}).Objects
		if len(objects) != 3 {
			t.Errorf("%d objects", len(objects))
		}
		for _, o := range objects {
			if len(o.Faults) != 0 {
				t.Errorf("%s: %v", o.Label, o.Faults)
			}
		}
	})
}

func must2[T any](_ T, err error) error { return err }

// Each key serves its own use only.
func TestUsesDoNotMix(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	v := tt.addSubjectKey(t)
	token := tt.open(t)
	job := tt.jobOf(t, rand.New(rand.NewPCG(1, 1)), cryptogram.VisaCVN18, true)
	job.Key = v.ID
	token.Execute([]*worker.Job{job})
	if !errors.Is(job.Err, worker.ErrNotBound) || job.Outcome != (cryptogram.Outcome{}) || job.Subjects != ([2]keys.Subject{}) {
		t.Errorf("a subject key verified: %v", job.Err)
	}
}

// A subject key that is not what the manifest says stops every verification,
// because no answer could be checked for a replay, but is no fault of the
// issuer key.
func TestWrongSubjectKeyStopsAll(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		for name, tc := range map[string]struct {
			spoil func(tt *testToken)
			why   string
		}{
			"check value": {func(tt *testToken) { tt.manifest.Sets[subjectSet].Versions[0].CheckValue[2] ^= 1 }, "check value"},
			"canary":      {func(tt *testToken) { tt.manifest.Sets[subjectSet].Versions[1].Canary[7] ^= 1 }, "canary"},
			"missing":     {func(tt *testToken) { tt.manifest.Sets[subjectSet].Versions[0].ID[3] ^= 1 }, "no such object"},
		} {
			t.Run(name, func(t *testing.T) {
				tt := newTestToken(t, p, 1)
				tt.addSubjectKey(t)
				tt.addSubjectKey(t)
				tc.spoil(tt)
				token := tt.open(t)
				job := tt.jobOf(t, rand.New(rand.NewPCG(1, 1)), cryptogram.VisaCVN18, true)
				for range 2 {
					token.Execute([]*worker.Job{job})
					if !errors.Is(job.Err, worker.ErrSubject) || errors.Is(job.Err, worker.ErrKeyUnproven) || !strings.Contains(job.Err.Error(), tc.why) {
						t.Errorf("Execute: %v", job.Err)
					}
					if job.Outcome != (cryptogram.Outcome{}) || job.Subjects != ([2]keys.Subject{}) {
						t.Error("an error with an outcome")
					}
					if _, err := token.Hash(&job.Subject); !errors.Is(err, worker.ErrKeyUnproven) {
						t.Errorf("Hash: %v", err)
					}
				}
				must(t, token.Prove(tt.id(0)))
			})
		}
	})
}

func TestWrongAttributesOfASubjectKey(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 0)
		names := map[keys.ID]string{}
		for _, c := range []struct {
			change  attribute
			softhsm bool // as in TestWrongAttributesAreRefused
		}{
			{flag(p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", true), false},
			{flag(p11.CKA_SENSITIVE, "CKA_SENSITIVE", false), true},
			{flag(p11.CKA_MODIFIABLE, "CKA_MODIFIABLE", true), false},
			{flag(p11.CKA_COPYABLE, "CKA_COPYABLE", true), true},
			{flag(p11.CKA_PRIVATE, "CKA_PRIVATE", false), true},
			{flag(p11.CKA_SIGN, "CKA_SIGN", false), false},
			{flag(p11.CKA_VERIFY, "CKA_VERIFY", true), false},
			{flag(p11.CKA_DERIVE, "CKA_DERIVE", true), false},
			{flag(p11.CKA_ENCRYPT, "CKA_ENCRYPT", true), false},
			{flag(p11.CKA_DECRYPT, "CKA_DECRYPT", true), false},
			{flag(p11.CKA_WRAP, "CKA_WRAP", true), false},
			{flag(p11.CKA_UNWRAP, "CKA_UNWRAP", true), false},
		} {
			if c.softhsm && p.nss {
				continue
			}
			names[tt.plantSubjectKey(t, randomValue(keys.SubjectKeyBytes), c.change).ID] = c.change.name
		}
		names[tt.plantSubjectKey(t, randomValue(keys.SubjectKeyBytes-1)).ID] = "CKA_VALUE_LEN"
		token := tt.open(t)
		for id, name := range names {
			if err := token.Prove(id); !errors.Is(err, worker.ErrKeyUnproven) || !strings.Contains(err.Error(), name+" is wrong") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// A failure of the hash is a failure of its job alone: no verdict, no object
// left, a new session, and the others come out right.
func TestFailedHash(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	tt.addSubjectKey(t)
	tt.addSubjectKey(t)
	tt.behindProxy(t)
	token := tt.open(t)
	r := rand.New(rand.NewPCG(5, 6))
	warm := tt.jobOf(t, r, cryptogram.VisaCVN18, true)
	token.Execute([]*worker.Job{warm})
	must(t, warm.Err)
	before, replaced := sessionObjects(t, token), uint64(0)
	for _, spec := range []string{ // of two hashes for each job
		"C_SignInit 5 5", "C_SignInit 6 5", "C_Sign 5 5", "C_Sign 6 5", "C_Sign 5 0", "C_Sign 6 0",
	} {
		jobs := make([]*worker.Job, 5)
		for i := range jobs {
			jobs[i] = tt.jobOf(t, r, cryptogram.VisaCVN18, true)
		}
		t.Setenv("PROXY_FAIL", spec)
		token.Execute(jobs)
		for i, j := range jobs {
			failed := i == 2
			if (j.Err != nil) != failed || (j.Outcome.Steps[0].Status == cryptogram.Matched) == failed ||
				(j.Subjects[0].Version == 2 && j.Subjects[1].Version == 1) == failed {
				t.Errorf("%s: job %d: %v", spec, i, j.Err)
			}
			if failed && (j.Outcome != (cryptogram.Outcome{}) || j.Subjects != ([2]keys.Subject{})) {
				t.Errorf("%s: a partial result", spec)
			}
		}
		replaced++
		if s := token.Stats(); s.SessionsReplaced != replaced || s.Failures != replaced {
			t.Errorf("%s: %+v", spec, s)
		}
		if after := sessionObjects(t, token); after != before {
			t.Errorf("%s: session objects: %d before, %d after", spec, before, after)
		}
		must(t, token.Dead())
	}
	t.Setenv("PROXY_FAIL", "C_SignInit 1 30") // CKR_DEVICE_ERROR
	if _, err := token.Hash(&warm.Subject); err == nil || !errors.Is(token.Dead(), ErrDead) {
		t.Errorf("after a device error: %v, dead %v", err, token.Dead())
	}
}

// Somebody destroys a subject key while the worker runs: no verdict any more.
func TestSubjectKeyDestroyedBehindTheWorker(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		for which, name := range []string{"current", "previous"} {
			t.Run(name, func(t *testing.T) {
				tt := newTestToken(t, p, 1)
				tt.addSubjectKey(t)
				tt.addSubjectKey(t)
				token := tt.open(t)
				k := token.keystore.subjects[which]
				job := tt.jobOf(t, rand.New(rand.NewPCG(7, 8)), cryptogram.VisaCVN18, true)
				token.Execute([]*worker.Job{job})
				must(t, job.Err)
				ctx, s := intruder(t, token)
				must(t, ctx.DestroyObject(s, k.handle))
				for range 3 {
					token.Execute([]*worker.Job{job})
					if job.Err == nil || errors.Is(job.Err, worker.ErrKeyUnproven) || job.Outcome != (cryptogram.Outcome{}) {
						t.Errorf("a verdict without its subject: %v", job.Err)
					}
				}
				if err := token.Prove(k.version.ID); !errors.Is(err, worker.ErrKeyUnproven) {
					t.Errorf("Prove: %v", err)
				}
				if s := token.Stats(); s.SessionsReplaced != 1 {
					t.Errorf("%d sessions replaced, the refusal must be remembered", s.SessionsReplaced)
				}
				must(t, token.Dead())
			})
		}
	})
}

// Copies of subject keys follow the rules of all copies: they serve, they go with
// their key, and one that disappears by itself ends the epoch.
func TestResidentSubjectKeys(t *testing.T) {
	start := func(t *testing.T) (*testToken, *Token, func() error) {
		t.Helper()
		tt := newTestToken(t, provider{nss: true}, 1)
		tt.addSubjectKey(t)
		tt.addSubjectKey(t)
		tt.cfg.ResidentKeys = true
		token := tt.open(t)
		job := tt.jobOf(t, rand.New(rand.NewPCG(9, 9)), cryptogram.VisaCVN18, true)
		serves := func() error {
			token.Execute([]*worker.Job{job})
			if job.Err != nil && (job.Outcome != (cryptogram.Outcome{}) || job.Subjects != ([2]keys.Subject{})) {
				return errors.New("an error with an outcome")
			}
			return job.Err
		}
		must(t, serves())
		if s := token.Stats(); s.ResidentKeys != 3 || s.NotResident != 0 {
			t.Fatalf("%+v", s)
		}
		return tt, token, serves
	}
	t.Run("destroyed", func(t *testing.T) {
		tt, token, serves := start(t)
		previous := token.keystore.subjects[1]
		tt.destroyElsewhere(t, previous.version.ID)
		token.lookLongAgo()
		for range 2 {
			if err := serves(); !errors.Is(err, worker.ErrSubject) || !strings.Contains(err.Error(), goneText) {
				t.Errorf("got %v", err)
			}
		}
		if s := token.Stats(); s.ResidentKeys != 2 || previous.copied != 0 {
			t.Errorf("%+v", s)
		}
		must(t, token.Dead())
	})
	t.Run("copy lost", func(t *testing.T) {
		_, token, serves := start(t)
		ctx, s := intruder(t, token)
		must(t, ctx.DestroyObject(s, token.keystore.subjects[0].copied))
		if err := serves(); !errors.Is(err, ErrDead) || !errors.Is(token.Dead(), errCopyLost) {
			t.Errorf("got %v, dead %v", err, token.Dead())
		}
	})
	t.Run("hash looks too", func(t *testing.T) {
		tt, token, _ := start(t)
		tt.destroyElsewhere(t, token.keystore.subjects[0].version.ID)
		token.lookLongAgo()
		in := keys.NewSubjectInput(must1(panOf("4111111111111111"))(t), cryptogram.PSN{})
		if _, err := token.Hash(&in); !errors.Is(err, worker.ErrKeyUnproven) {
			t.Errorf("got %v", err)
		}
	})
}

func panOf(s string) (*cryptogram.PAN, error) {
	p, err := cryptogram.ParsePAN(s)
	return &p, err
}
