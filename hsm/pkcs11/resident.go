package pkcs11

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	p11 "github.com/miekg/pkcs11"
)

// A resident key is one that was proved and of which the process holds a
// session copy: derivations start from the copy, because some tokens decipher
// a stored key anew for each use. The price is that a copy outlives its token
// object, so the object is looked for again and again.
// See docs/decisions/0010-resident-keys.md.

// lookEvery is how long copies may be used on the strength of one look at their
// token objects, so it bounds how long a destroyed key serves on.
const lookEvery = time.Second

// idsInALook is how many resident keys have their CKA_ID read in each look, in
// turn. Reading one costs as much as searching the token for a hundred.
const idsInALook = 16

// residents are the keys with a copy.
type residents struct {
	keys   []*heldKey
	looked time.Time // last time that all of them were found
	look   uint64    // number of the look
	turn   int       // where reading the ids goes on
	err    error     // of the last look; as long as it is set no copy is used
}

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
		t.residents.keys = append(t.residents.keys, k)
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
	fault, err := k.examineObject(t.module.ctx, t.sessions.work, k.copied, residentOf(k.use))
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

// lookForResidents finds the token objects of all copies, if the last look was
// too long ago: one search for all, which is cheap, and the word of the object
// itself for those that the search did not show and for a few others in turn.
func (t *Token) lookForResidents() {
	r := &t.residents
	if len(r.keys) == 0 || t.dead != nil || t.now.Sub(r.looked) < lookEvery {
		return
	}
	if r.err = t.search(); r.err != nil {
		return
	}
	n := len(r.keys)
	for i := n - 1; i >= 0 && t.dead == nil; i-- { // backwards: a key that is gone leaves the list
		k := r.keys[i]
		if inTurn := (i-r.turn+n)%n < idsInALook; k.look != r.look || inTurn {
			r.err = errors.Join(r.err, t.confirm(k))
		}
	}
	r.turn = (r.turn + idsInALook) % n
	if r.err == nil {
		r.looked = t.now
	}
}

// search marks the keys of which the token shows the object.
func (t *Token) search() error {
	handles, err := findSecretKeys(t.module.ctx, t.sessions.work)
	if err != nil {
		t.noteCallError(err)
		return fmt.Errorf("looking for the keys in the token: %w", err)
	}
	t.residents.look++
	for _, h := range handles {
		if k, ours := t.keystore.byHandle[h]; ours {
			k.look = t.residents.look
		}
	}
	return nil
}

// confirm refuses a key whose token object is gone or another one. An error
// means that the module could not tell.
func (t *Token) confirm(k *heldKey) error {
	same, err := t.engine.hasID(k.handle, k.version.ID)
	if err != nil {
		t.afterCallError(k, err)
		if k.refused == nil {
			return fmt.Errorf("looking for key %s in the token: %w", k.version.ID, err)
		}
		return nil //nolint:nilerr // the error said that the object is gone, and the key is refused
	}
	if !same {
		t.refuse(k, otherIDText)
	}
	return nil
}

// refuse ends the use of a key for the rest of the epoch.
func (t *Token) refuse(k *heldKey, why string) {
	k.refuse(why)
	t.report(k)
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
	if i := slices.Index(t.residents.keys, k); i >= 0 {
		t.residents.keys = slices.Delete(t.residents.keys, i, i+1)
	}
	t.counts.resident.Add(^uint64(0))
	err := call("C_DestroyObject", t.module.ctx.DestroyObject(t.sessions.holder, h))
	var failure *callError
	if err != nil && !(errors.As(err, &failure) && isGone(failure.rv)) && t.dead == nil {
		t.die(err)
	}
}
