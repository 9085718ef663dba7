package pkcs11

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// A resident key is one that was proved and of which the process holds a
// session copy: derivations start from the copy, because some tokens decipher
// a stored key anew for each use. The price is that a copy outlives its token
// object, so the object is looked for again and again.
// See docs/decisions/0010-resident-keys.md.

// residentCheckEvery is how long a copy may be used on the strength of one
// look at its token object, so it bounds how long a destroyed key serves on.
// A look costs some 10 µs, for keys in use only.
const residentCheckEvery = time.Second

// keepResident makes the copy of a key that has just been proved, or proves
// the one that there is. A token that gives no right copy is no error: the
// token object serves.
func (t *Token) keepResident(k *heldKey) error {
	if !t.resident || k.uncopied {
		return nil
	}
	if k.copied == 0 {
		if err := t.copyKey(k); err != nil || k.copied == 0 {
			return err
		}
	}
	fault := t.checkCopy(k)
	if fault == nil {
		k.seen = t.now
		return nil
	}
	t.dropCopy(k)
	if t.dead != nil {
		return t.dead
	}
	t.stayInToken(k, fault)
	return nil
}

// copyKey belongs to the session that lives as long as the login: the working
// session is thrown away after any error, and its objects with it.
func (t *Token) copyKey(k *heldKey) error {
	h, err := t.module.ctx.CopyObject(t.sessions.holder, k.handle, []*p11.Attribute{residentChange().attribute()})
	if err == nil {
		k.copied = h
		t.counts.resident.Add(1)
		return nil
	}
	err = call("C_CopyObject", err)
	var failure *callError
	if !errors.As(err, &failure) {
		return err
	}
	switch {
	case isGone(failure.rv):
		t.refuse(k, goneText)
		return k.refused
	case endsEpoch(failure.rv) && failure.rv != p11.CKR_DEVICE_MEMORY: // a full token serves without copies
		t.die(err)
		return t.dead
	}
	t.stayInToken(k, err)
	return nil
}

// checkCopy compares and proves a copy like every object. Here an error of the
// module is a fault too: it has just done the same with the token object.
func (t *Token) checkCopy(k *heldKey) error {
	fault, err := examineObject(t.module.ctx, t.sessions.work, k.copied, residentIssuerACKey(), &k.version)
	if err != nil {
		t.noteCallError(err)
		return err
	}
	if fault == "" {
		fault, err = t.canary(k, k.copied, func() {})
	}
	if err == nil && fault != "" {
		err = errors.New(fault)
	}
	return err
}

// stayInToken remembers that a key has no copy, and says so once.
func (t *Token) stayInToken(k *heldKey, why error) {
	k.uncopied = true
	if t.counts.notResident.Add(1) == 1 {
		t.log.Warn("keys are used where they are in the token: it gives no right session copy",
			slog.String("key", k.version.ID.String()), slog.String("reason", why.Error()))
	}
}

// stillInToken looks for the token object of a resident key if the last look
// was too long ago.
func (t *Token) stillInToken(k *heldKey) error {
	if k.copied == 0 || t.now.Sub(k.seen) < residentCheckEvery {
		return nil
	}
	same, err := t.engine.hasID(k.handle, k.version.ID)
	switch {
	case err == nil && same:
		k.seen = t.now
		return nil
	case err == nil:
		t.refuse(k, otherIDText)
	default:
		t.afterCallError(k, err)
	}
	if k.refused != nil {
		return k.refused
	}
	return fmt.Errorf("looking for key %s in the token: %w", k.version.ID, err)
}

// refuse ends the use of a key for the rest of the epoch.
func (t *Token) refuse(k *heldKey, why string) {
	k.refuse(why)
	t.dropCopy(k)
}

// dropCopy destroys the copy. One that cannot be destroyed is a key that
// nobody can take away any more, so the process must go.
func (t *Token) dropCopy(k *heldKey) {
	if k.copied == 0 {
		return
	}
	h := k.copied
	k.copied = 0
	t.counts.resident.Add(^uint64(0))
	err := call("C_DestroyObject", t.module.ctx.DestroyObject(t.sessions.holder, h))
	var failure *callError
	if err != nil && !(errors.As(err, &failure) && isGone(failure.rv)) && t.dead == nil {
		t.die(err)
	}
}
