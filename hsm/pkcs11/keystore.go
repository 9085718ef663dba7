package pkcs11

import (
	"bytes"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// A keystore knows the manifest's keys in the token: found once, each proved
// before its first use, refused for the rest of the epoch if it failed.
type keystore struct {
	keys     map[keys.ID]*heldKey
	byHandle map[p11.ObjectHandle]*heldKey   // of the token objects
	subjects [len(subjectHandles{})]*heldKey // in force, current first; nil for none
}

// A heldKey is one key version of the manifest and its object.
type heldKey struct {
	use     keys.Use
	version keys.Version
	handle  p11.ObjectHandle
	found   int // objects with this id; one is right
	proven  bool
	refused error // wraps worker.ErrKeyUnproven; stays for the epoch

	copied   p11.ObjectHandle // resident copy, 0 if there is none
	uncopied bool             // the token gives no right copy; stays for the epoch
	look     uint64           // number of the last look that found the token object
}

// root is the object that derivations start from.
func (k *heldKey) root() p11.ObjectHandle {
	if k.copied != 0 {
		return k.copied
	}
	return k.handle
}

// Reasons to refuse a key that more than one place gives.
const (
	goneText    = "the object is gone from the token"
	otherIDText = "the handle names an object with another id"
)

// newKeystore takes the versions that may be in the token. Two with one id
// would make the token's answer a matter of luck.
func newKeystore(m *keys.Manifest) (*keystore, error) {
	ks := &keystore{keys: make(map[keys.ID]*heldKey), byHandle: make(map[p11.ObjectHandle]*heldKey)}
	for i := range m.Sets {
		set := &m.Sets[i]
		if templateOf(set.Use) == nil {
			return nil, fmt.Errorf("key set %q: no template for its use", set.Name)
		}
		for _, v := range set.Versions {
			if v.State == keys.Destroyed {
				continue
			}
			if _, twice := ks.keys[v.ID]; twice || v.ID == (keys.ID{}) {
				return nil, fmt.Errorf("key set %q version %d: key id is used twice or missing", set.Name, v.Number)
			}
			ks.keys[v.ID] = &heldKey{use: set.Use, version: v}
		}
	}
	current, previous := m.SubjectKeys()
	ks.subjects[0], ks.subjects[1] = ks.keys[current.ID], ks.keys[previous.ID] // the id of none is nobody's
	return ks, nil
}

// findChunk is how many handles one C_FindObjects gives.
const findChunk = 512

// index finds all secret keys of the token once. Finding each by its id would
// search the whole token each time: 170 ms at 10,000 keys.
func (ks *keystore) index(ctx *p11.Ctx, s p11.SessionHandle) error {
	handles, err := findSecretKeys(ctx, s)
	if err != nil {
		return err
	}
	for _, h := range handles {
		attrs, err := ctx.GetAttributeValue(s, h, []*p11.Attribute{p11.NewAttribute(p11.CKA_ID, nil)})
		if err != nil {
			return call("C_GetAttributeValue", err)
		}
		var id keys.ID
		if len(attrs) != 1 || len(attrs[0].Value) != len(id) {
			continue // not one of ours
		}
		copy(id[:], attrs[0].Value)
		if k, ours := ks.keys[id]; ours {
			k.handle = h
			ks.byHandle[h] = k
			k.found++
		}
	}
	for _, k := range ks.keys {
		switch k.found {
		case 0:
			k.refuse("the token has no such object")
		case 1:
		default:
			k.refuse("more than one object has this id")
		}
	}
	return nil
}

func findSecretKeys(ctx *p11.Ctx, s p11.SessionHandle) ([]p11.ObjectHandle, error) {
	return findObjects(ctx, s, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_TOKEN, true),
	})
}

func findObjects(ctx *p11.Ctx, s p11.SessionHandle, match []*p11.Attribute) ([]p11.ObjectHandle, error) {
	if err := ctx.FindObjectsInit(s, match); err != nil {
		return nil, call("C_FindObjectsInit", err)
	}
	var all []p11.ObjectHandle
	for {
		some, _, err := ctx.FindObjects(s, findChunk)
		if err != nil {
			_ = ctx.FindObjectsFinal(s)
			return nil, call("C_FindObjects", err)
		}
		if len(some) == 0 {
			return all, call("C_FindObjectsFinal", ctx.FindObjectsFinal(s))
		}
		all = append(all, some...)
	}
}

func (k *heldKey) refuse(why string) {
	k.proven = false
	k.refused = fmt.Errorf("%w: key %s: %s", worker.ErrKeyUnproven, k.version.ID, why)
}

// examine compares the token object of a key, see examineObject.
func (k *heldKey) examine(ctx *p11.Ctx, s p11.SessionHandle) (fault string, err error) {
	return k.examineObject(ctx, s, k.handle, templateOf(k.use))
}

// examineObject compares an object with its template, id and check value. It
// gives the first difference, empty if there is none; an error means that the
// module could not tell.
func (k *heldKey) examineObject(ctx *p11.Ctx, s p11.SessionHandle, h p11.ObjectHandle, t template) (fault string, err error) {
	faults, err := compareTemplate(ctx, s, h, t)
	if err != nil {
		return "", err
	}
	if len(faults) > 0 {
		return faults[0], nil
	}
	id, known, err := readAttribute(ctx, s, h, p11.CKA_ID)
	if err != nil {
		return "", err
	}
	if !known || !bytes.Equal(id, k.version.ID[:]) {
		return otherIDText, nil
	}
	if k.use == keys.UseSubjectHash {
		return "", nil // its check value is an HMAC, see subjectCanary
	}
	kcv, known, err := readAttribute(ctx, s, h, p11.CKA_CHECK_VALUE)
	if err != nil {
		return "", err
	}
	// SoftHSM gives it, NSS softokn does not know it: there the canary is
	// the whole proof of the value.
	if known && len(kcv) > 0 && !bytes.Equal(kcv, k.version.CheckValue[:]) {
		return "the check value is another", nil
	}
	return "", nil
}

// compareTemplate reads an object back and names what differs from the template.
func compareTemplate(ctx *p11.Ctx, s p11.SessionHandle, h p11.ObjectHandle, t template) ([]string, error) {
	var faults []string
	for _, want := range t {
		got, known, err := readAttribute(ctx, s, h, want.typ)
		switch {
		case err != nil:
			return nil, err
		case !known && !want.mayBeUnknown:
			faults = append(faults, want.name+" is not there")
		case known && !bytes.Equal(got, want.value):
			faults = append(faults, want.name+" is wrong")
		}
	}
	return faults, nil
}

// readAttribute reads one attribute; known is false where the module has no
// such attribute. One at a time: a single unknown one spoils a list.
func readAttribute(ctx *p11.Ctx, s p11.SessionHandle, h p11.ObjectHandle, typ uint) (value []byte, known bool, err error) {
	attrs, err := ctx.GetAttributeValue(s, h, []*p11.Attribute{p11.NewAttribute(typ, nil)})
	if errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, call("C_GetAttributeValue", err)
	}
	if len(attrs) != 1 {
		return nil, false, nil
	}
	return attrs[0].Value, true, nil
}

// canaryVerdict reads the outcome of a canary plan.
func canaryVerdict(o *cryptogram.Outcome) (fault string) {
	switch o.Steps[0].Status {
	case cryptogram.Matched:
		return ""
	case cryptogram.Mismatched:
		return "the canary is another"
	}
	return "the canary was not computed"
}
