package pkcs11

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/keys"
)

// perform does one act. The order was checked when it was read.
func perform(o *admin.Order) (admin.Result, error) {
	pin, err := pinOf(&o.Act)
	if err != nil {
		return admin.Result{}, err
	}
	defer clear(pin)
	cfg := Config{Module: o.Module, ModuleArgs: o.ModuleArgs, TokenLabel: o.Act.TokenLabel}
	if o.Act.Operation == admin.InitToken {
		serial, err := initToken(cfg, pin)
		return admin.Result{TokenSerial: serial}, err
	}
	flags := uint(readWrite)
	if o.Act.Operation == admin.Inventory {
		flags = readOnly
	}
	a, err := openAdmin(cfg, flags, pin)
	if err != nil {
		return admin.Result{}, err
	}
	defer a.close()
	switch o.Act.Operation {
	case admin.ImportDemoKey:
		made, err := a.importDemoKey(o.Act.Key)
		return admin.Result{Key: made}, err
	case admin.MakeSubjectKey:
		made, err := a.makeSubjectKey(o.Act.Label)
		return admin.Result{Key: made}, err
	}
	objects, err := a.inventory()
	return admin.Result{Objects: objects}, err
}

// pinOf is the PIN that came with the act, or the one in its file.
func pinOf(a *admin.Act) (pin []byte, err error) {
	if a.PIN.IsZero() {
		return readPINFile(a.PINFile)
	}
	a.PIN.Use(func(b []byte) { pin = bytes.Clone(b) })
	a.PIN.Wipe()
	return pin, nil
}

// An adminToken is a login for one act.
type adminToken struct{ Scratch }

func openAdmin(cfg Config, flags uint, pin []byte) (*adminToken, error) {
	s, err := login(cfg, flags, pin)
	if err != nil {
		return nil, err
	}
	return &adminToken{Scratch{module: s.m, sessions: s, engine: newEngine(s.m.functions, false)}}, nil
}

func (a *adminToken) close() { a.Close() }

var errEqualHalves = errors.New("both halves of the key are equal: it is a single DES key")

// importDemoKey makes an issuer AC key, reads it back, and only then reports
// it. Nothing stays behind in the token when a check fails.
func (a *adminToken) importDemoKey(k *admin.DemoKey) (made *admin.MadeKey, err error) {
	if bytes.Equal(k.Value[:8], k.Value[8:]) {
		return nil, errEqualHalves
	}
	made = &admin.MadeKey{}
	if _, err := rand.Read(made.ID[:]); err != nil {
		return nil, err
	}
	expected, err := a.birthValues(&k.Value, made)
	if err != nil {
		return nil, fmt.Errorf("computing check value and canary: %w", err)
	}
	h, err := a.create(issuerACKey(),
		p11.NewAttribute(p11.CKA_ID, made.ID[:]),
		p11.NewAttribute(p11.CKA_LABEL, k.Label),
		p11.NewAttribute(p11.CKA_VALUE, k.Value[:]),
	)
	if err != nil {
		return nil, err
	}
	return a.keepIfRight(&heldKey{use: keys.UseIssuerAC, version: expected, handle: h}, made)
}

// makeSubjectKey generates a subject key, records what proves it, and only then
// reports it. Nothing stays behind in the token when a check fails.
func (a *adminToken) makeSubjectKey(label string) (made *admin.MadeKey, err error) {
	made = &admin.MadeKey{}
	if _, err := rand.Read(made.ID[:]); err != nil {
		return nil, err
	}
	h, err := a.generate(subjectKey(),
		p11.NewAttribute(p11.CKA_ID, made.ID[:]),
		p11.NewAttribute(p11.CKA_LABEL, label),
	)
	if err != nil {
		return nil, err
	}
	k := heldKey{use: keys.UseSubjectHash, version: keys.Version{ID: made.ID}, handle: h}
	loadSubjectCanary(a.engine, h)
	a.engine.use(a.sessions.work)
	a.engine.run(0, subjectCanaryJobs)
	birth, err := takeSubjectCanary(a.engine)
	if err != nil {
		return nil, a.destroyed(h, fmt.Errorf("computing check value and canary: %w", err))
	}
	made.CheckValue, made.Canary = birth.CheckValue, birth.Canary
	k.version.CheckValue, k.version.Canary = birth.CheckValue, birth.Canary
	return a.keepIfRight(&k, made)
}

// keepIfRight reads a new key back and destroys it if it is not what it should
// be.
func (a *adminToken) keepIfRight(k *heldKey, made *admin.MadeKey) (*admin.MadeKey, error) {
	if err := a.readBack(k); err != nil {
		return nil, a.destroyed(k.handle, fmt.Errorf("reading the key back: %w", err))
	}
	return made, nil
}

// destroyed takes away a key that must not be there, for the reason err.
func (a *adminToken) destroyed(h p11.ObjectHandle, err error) error {
	return errors.Join(err, call("C_DestroyObject", a.module.ctx.DestroyObject(a.sessions.work, h)))
}

// create makes an object of a template with a given value.
func (a *adminToken) create(t template, own ...*p11.Attribute) (p11.ObjectHandle, error) {
	return a.make("C_CreateObject", t, own, func(attrs []*p11.Attribute) (p11.ObjectHandle, error) {
		return a.module.ctx.CreateObject(a.sessions.work, attrs)
	})
}

// generate makes a generic secret of a template.
func (a *adminToken) generate(t template, own ...*p11.Attribute) (p11.ObjectHandle, error) {
	how := []*p11.Mechanism{p11.NewMechanism(p11.CKM_GENERIC_SECRET_KEY_GEN, nil)}
	return a.make("C_GenerateKey", t, own, func(attrs []*p11.Attribute) (p11.ObjectHandle, error) {
		return a.module.ctx.GenerateKey(a.sessions.work, how, attrs)
	})
}

// make makes an object of a template. A module may refuse the mere mention of
// an attribute that it does not know (NSS softokn answers CKR_GENERAL_ERROR to
// CKA_COPYABLE): then it is made without those that may be unknown. Reading
// back decides; a module that knows the attribute shows its wrong default.
func (a *adminToken) make(name string, t template, own []*p11.Attribute,
	by func([]*p11.Attribute) (p11.ObjectHandle, error),
) (p11.ObjectHandle, error) {
	h, err := by(t.attributes(own...))
	if err == nil {
		return h, nil
	}
	if err := a.sessions.replace(); err != nil {
		return 0, err
	}
	h, again := by(t.everywhereKnown().attributes(own...))
	if again != nil {
		return 0, call(name, err) // the first answer is the one to explain
	}
	return h, nil
}

// birthValues computes check value and canary in the token, under a session
// copy of the value, and fills them in.
func (a *adminToken) birthValues(value *[16]byte, made *admin.MadeKey) (keys.Version, error) {
	var plan cryptogram.Plan
	var out cryptogram.Outcome
	cryptogram.CanaryBirthPlan(&plan)
	if err := a.Execute(value, &plan, &out); err != nil {
		return keys.Version{}, err
	}
	made.Canary = out.Steps[0].Bytes
	checkValuePlan(&plan)
	if err := a.Execute(value, &plan, &out); err != nil {
		return keys.Version{}, err
	}
	made.CheckValue = [3]byte(out.Steps[0].Bytes[:3])
	return keys.Version{ID: made.ID, CheckValue: made.CheckValue, Canary: made.Canary}, nil
}

// checkValuePlan is DES3(K)[0^8], of which a check value shows three bytes:
// method tdes_zero.
func checkValuePlan(p *cryptogram.Plan) {
	*p = cryptogram.Plan{NumSteps: 1}
	p.Steps[0] = cryptogram.Step{
		Op: cryptogram.EncryptBlock, ProduceBytes: checkValueBytes, DataBytes: cryptogram.BlockBytes,
	}
}

const checkValueBytes = 3

// readBack proves the new object as a data worker will: template, id, check
// value, canary. It also makes sure that the id names nothing else.
func (a *adminToken) readBack(k *heldKey) error {
	same, err := findObjects(a.module.ctx, a.sessions.work, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_ID, k.version.ID[:]),
	})
	if err != nil {
		return err
	}
	if len(same) != 1 || same[0] != k.handle {
		return errors.New("its id names more or less than one object")
	}
	fault, err := k.examine(a.module.ctx, a.sessions.work)
	if err != nil {
		return err
	}
	if fault == "" {
		fault, err = a.canary(k)
	}
	if err == nil && fault != "" {
		err = errors.New(fault)
	}
	return err
}

func (a *adminToken) canary(k *heldKey) (fault string, err error) {
	a.engine.use(a.sessions.work)
	if k.use == keys.UseSubjectHash {
		loadSubjectCanary(a.engine, k.handle)
		a.engine.run(0, subjectCanaryJobs)
		got, err := takeSubjectCanary(a.engine)
		if err != nil {
			return "", err
		}
		return k.subjectVerdict(&got), nil
	}
	var plan cryptogram.Plan
	var out cryptogram.Outcome
	cryptogram.CanaryPlan(k.version.Canary, &plan)
	a.engine.load(0, rootHandles{deriving: k.handle}, &plan)
	a.engine.run(0, 1)
	if err := a.engine.take(0, &out); err != nil {
		return "", err
	}
	return canaryVerdict(&out), nil
}

// inventory lists all secret keys of the token, ours or not.
func (a *adminToken) inventory() ([]admin.Object, error) {
	ctx, s := a.module.ctx, a.sessions.work
	handles, err := findSecretKeys(ctx, s)
	if err != nil {
		return nil, err
	}
	var list []admin.Object
	for _, h := range handles {
		var o admin.Object
		id, _, err1 := readAttribute(ctx, s, h, p11.CKA_ID)
		label, _, err2 := readAttribute(ctx, s, h, p11.CKA_LABEL)
		kcv, _, err3 := readAttribute(ctx, s, h, p11.CKA_CHECK_VALUE)
		faults, err4 := nearestFaults(ctx, s, h)
		if err := errors.Join(err1, err2, err3, err4); err != nil {
			return nil, err
		}
		o.ID, o.Label, o.CheckValue, o.Faults = id, string(label), kcv, faults
		list = append(list, o)
	}
	return list, nil
}

// nearestFaults compares an object with the templates of all uses and gives the
// differences from the one that it is nearest to.
func nearestFaults(ctx *p11.Ctx, s p11.SessionHandle, h p11.ObjectHandle) ([]string, error) {
	faults, err := compareTemplate(ctx, s, h, issuerACKey())
	if err != nil || len(faults) == 0 {
		return faults, err
	}
	others, err := compareTemplate(ctx, s, h, subjectKey())
	if err == nil && len(others) < len(faults) {
		faults = others
	}
	return faults, err
}
