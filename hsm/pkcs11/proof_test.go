package pkcs11

import (
	"bytes"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// plant makes a token object behind the admin role's back, from the template
// with some attributes changed, and adds it to the manifest with true check
// value and canary of value, so that only the attributes are wrong.
func (tt *testToken) plant(tb testing.TB, id keys.ID, value [16]byte, change ...attribute) {
	tb.Helper()
	a, err := openAdmin(tt.cfg, readWrite, []byte(tt.pin))
	must(tb, err)
	defer a.close()
	tmpl := issuerACKey()
	for _, c := range change {
		for i := range tmpl {
			if tmpl[i].typ == c.typ {
				tmpl[i].value = c.value
			}
		}
	}
	made := admin.MadeKey{ID: id}
	v := must1(a.birthValues(&value, &made))(tb)
	must1(a.create(tmpl,
		p11.NewAttribute(p11.CKA_ID, id[:]),
		p11.NewAttribute(p11.CKA_LABEL, "planted"),
		p11.NewAttribute(p11.CKA_VALUE, value[:]),
	))(tb)
	set := &tt.manifest.Sets[0]
	for _, known := range set.Versions {
		if known.ID == id {
			return
		}
	}
	v.Number, v.State = uint32(len(set.Versions)+1), keys.Active
	set.Versions = append(set.Versions, v)
	tt.values[id] = value
}

func randomKey() (id keys.ID, value [16]byte) {
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(value[:])
	return id, value
}

// refused checks that neither Prove nor Execute takes a key, at the first try
// and at the second, and that the good key beside it still serves.
func refused(t *testing.T, tt *testToken, bad keys.Version, why string) {
	t.Helper()
	token := tt.open(t)
	good := tt.manifest.Sets[0].Versions[0]
	for range 2 {
		err := token.Prove(bad.ID)
		if !errors.Is(err, worker.ErrKeyUnproven) || !strings.Contains(err.Error(), why) {
			t.Errorf("Prove: %v, want %q", err, why)
		}
		jobs := []*worker.Job{
			{Key: bad.ID, Plan: canaryPlanFor(bad)},
			{Key: good.ID, Plan: canaryPlanFor(good)},
		}
		token.Execute(jobs)
		if !errors.Is(jobs[0].Err, worker.ErrKeyUnproven) {
			t.Errorf("Execute: %v", jobs[0].Err)
		}
		must(t, jobs[1].Err)
	}
}

func TestWrongCheckValueIsRefused(t *testing.T) {
	tt := newTestToken(t, provider{}, 2) // SoftHSM gives CKA_CHECK_VALUE
	v := &tt.manifest.Sets[0].Versions[1]
	v.CheckValue[2] ^= 1
	refused(t, tt, *v, "check value")
}

func TestWrongCanaryIsRefused(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 2)
		v := &tt.manifest.Sets[0].Versions[1]
		v.Canary[7] ^= 1
		refused(t, tt, *v, "canary")
	})
}

func TestMissingKeyIsRefused(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		id, _ := randomKey()
		v := keys.Version{Number: 9, ID: id, State: keys.Active}
		tt.manifest.Sets[0].Versions = append(tt.manifest.Sets[0].Versions, v)
		refused(t, tt, v, "no such object")
	})
}

func TestDuplicateIDIsRefused(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 2)
		v := tt.manifest.Sets[0].Versions[1]
		_, other := randomKey()
		tt.plant(t, v.ID, other)
		why := "more than one"
		if p.nss {
			// A second secret key with an id overwrites the first one there:
			// only the canary can tell.
			why = "canary"
		}
		refused(t, tt, v, why)
	})
}

func TestWrongAttributesAreRefused(t *testing.T) {
	wrong := []struct {
		name   string
		change attribute
		// softhsm: NSS softokn has no such attribute, or stores every secret
		// token key as sensitive and private, whatever the template says.
		softhsm bool
	}{
		{name: "CKA_EXTRACTABLE", change: flag(p11.CKA_EXTRACTABLE, "", true)},
		{name: "CKA_SENSITIVE", change: flag(p11.CKA_SENSITIVE, "", false), softhsm: true},
		{name: "CKA_ENCRYPT", change: flag(p11.CKA_ENCRYPT, "", true)},
		{name: "CKA_DECRYPT", change: flag(p11.CKA_DECRYPT, "", true)},
		{name: "CKA_WRAP", change: flag(p11.CKA_WRAP, "", true)},
		{name: "CKA_UNWRAP", change: flag(p11.CKA_UNWRAP, "", true)},
		{name: "CKA_SIGN", change: flag(p11.CKA_SIGN, "", true)},
		{name: "CKA_VERIFY", change: flag(p11.CKA_VERIFY, "", true)},
		{name: "CKA_DERIVE", change: flag(p11.CKA_DERIVE, "", false)},
		{name: "CKA_PRIVATE", change: flag(p11.CKA_PRIVATE, "", false), softhsm: true},
		{name: "CKA_MODIFIABLE", change: flag(p11.CKA_MODIFIABLE, "", true)},
		{name: "CKA_COPYABLE", change: flag(p11.CKA_COPYABLE, "", true), softhsm: true},
		{name: "CKA_KEY_TYPE", change: number(p11.CKA_KEY_TYPE, "", p11.CKK_GENERIC_SECRET)},
	}
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		for _, w := range wrong {
			if w.softhsm && p.nss {
				continue
			}
			id, value := randomKey()
			tt.plant(t, id, value, w.change)
			versions := tt.manifest.Sets[0].Versions
			t.Run(w.name, func(t *testing.T) { refused(t, tt, versions[len(versions)-1], w.name+" is wrong") })
		}
		// The inventory names the same faults.
		listed := map[string]bool{}
		for _, o := range tt.act(t, admin.Act{Operation: admin.Inventory}).Objects {
			for _, f := range o.Faults {
				listed[f] = true
			}
		}
		for _, w := range wrong {
			if !listed[w.name+" is wrong"] && !(w.softhsm && p.nss) {
				t.Errorf("inventory does not show that %s is wrong", w.name)
			}
		}
	})
}

func TestManifestWithOneIDTwice(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	set := &tt.manifest.Sets[0]
	set.Versions = append(set.Versions, set.Versions[0])
	if _, err := Open(tt.cfg, []byte(tt.pin), tt.manifest); err == nil {
		t.Error("opened")
	}
}

// What a module enforces by itself, measured: a change here means that the
// templates and the comments in them need another look.
func TestFactsAboutModules(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		token := tt.open(t)
		v := tt.manifest.Sets[0].Versions[0]
		h := token.keystore.keys[v.ID].handle
		ctx, s := intruder(t, token)

		_, err := ctx.GetAttributeValue(s, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})
		if !errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_SENSITIVE)) {
			t.Errorf("reading the value: %v", err)
		}
		kcv, known, err := readAttribute(ctx, s, h, p11.CKA_CHECK_VALUE)
		must(t, err)
		if known == p.nss || (known && !bytes.Equal(kcv, v.CheckValue[:])) {
			t.Errorf("CKA_CHECK_VALUE: known %t", known)
		}
		err = ctx.SetAttributeValue(s, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_ENCRYPT, true)})
		if err == nil {
			t.Error("CKA_ENCRYPT could be set on a key that is not modifiable")
		}
		copied, err := ctx.CopyObject(s, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_TOKEN, false)})
		if prohibited := errors.Is(err, p11.Error(p11.CKR_ACTION_PROHIBITED)); prohibited == p.nss {
			t.Errorf("copying: object %t, %v", copied != 0, err)
		}
		err = ctx.EncryptInit(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_DES3_ECB, nil)}, h)
		if !errors.Is(err, p11.Error(p11.CKR_KEY_FUNCTION_NOT_PERMITTED)) && !errors.Is(err, p11.Error(p11.CKR_KEY_TYPE_INCONSISTENT)) {
			t.Errorf("enciphering under a key for deriving: %v", err)
		}
		// The worker's own sessions are read-only: no token object in them.
		_, value := randomKey()
		_, err = ctx.CreateObject(token.sessions.work, issuerACKey().everywhereKnown().attributes(p11.NewAttribute(p11.CKA_VALUE, value[:])))
		if !errors.Is(err, p11.Error(p11.CKR_SESSION_READ_ONLY)) {
			t.Errorf("token object in a worker's session: %v", err)
		}
	})
}

// Every template of a transient key, made in the module and read back.
func TestTransientTemplatesReadBack(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		token := tt.open(t)
		ctx, s := token.module.ctx, token.sessions.work
		for name, tmpl := range map[string]template{
			"deriving": cardKeyForDeriving(), "computing": keyForComputing(),
			"scratch deriving": scratchRootForDeriving(), "scratch computing": scratchRootForComputing(),
		} {
			_, value := randomKey()
			h, err := ctx.CreateObject(s, tmpl.attributes(p11.NewAttribute(p11.CKA_VALUE, value[:])))
			must(t, err)
			faults, err := compareTemplate(ctx, s, h, tmpl)
			must(t, err)
			if len(faults) > 0 {
				t.Errorf("%s: %v", name, faults)
			}
		}
	})
}

// The attributes of a *derived* object, as plan.c makes it: looked at while it
// exists, by deriving with the same template and parameter through miekg.
func TestDerivedObjectsReadBack(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		token := tt.open(t)
		for name, computing := range map[string]bool{"deriving": false, "computing": true} {
			tmpl := cardKeyForDeriving()
			if computing {
				tmpl = keyForComputing()
			}
			h := deriveAndKeep(t, token, token.keystore.keys[tt.id(0)].handle, computing)
			faults, err := compareTemplate(token.module.ctx, token.sessions.work, h, tmpl)
			must(t, err)
			if len(faults) > 0 {
				t.Errorf("%s: %v", name, faults)
			}
			_, err = token.module.ctx.GetAttributeValue(token.sessions.work, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_VALUE, nil)})
			if !errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_SENSITIVE)) {
				t.Errorf("%s: reading the value: %v", name, err)
			}
		}
	})
}
