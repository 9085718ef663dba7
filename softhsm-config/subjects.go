package softhsmconfig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
)

// subjectSet is the key set that hashes subjects. Unlike the demo keys nobody
// knows its key: the token makes it.
const subjectSet = "subjects"

// makeSubjectKey generates version 1 of the subject key and adds it to the
// manifest.
func (l Layout) makeSubjectKey(ctx context.Context, o Options, pin secret.Secret, m *keys.Manifest) error {
	res, err := l.act(ctx, o, pin, admin.Act{Operation: admin.MakeSubjectKey, Label: subjectSet + "-1"})
	if err != nil {
		return err
	}
	if res.Key == nil {
		return fmt.Errorf("making the key of %s: no description came back", subjectSet)
	}
	m.Sets = append(m.Sets, keys.Set{
		Name: subjectSet, Use: keys.UseSubjectHash,
		Versions: []keys.Version{{
			Number: 1, ID: res.Key.ID, State: keys.Active,
			CheckValue: res.Key.CheckValue, Canary: res.Key.Canary,
		}},
	})
	return nil
}

// errNoSubjectKey is for a token that was made before there were such keys and
// whose PIN is in Vault.
var errNoSubjectKey = errors.New("it was made before tokens had a subject key, and its PIN is in Vault: " + remedy)

// addSubjectKey gives a token that was made before there were subject keys its
// own. A Prepare that is killed in between leaves a key that no manifest names,
// and the next one makes another.
func (l Layout) addSubjectKey(ctx context.Context, o Options) error {
	m, err := keys.LoadManifest(l.Manifest())
	if err != nil {
		return err
	}
	for i := range m.Sets {
		if m.Sets[i].Use == keys.UseSubjectHash {
			return nil
		}
	}
	if o.Vault != nil {
		return fmt.Errorf("%s has no key of use %s: %w", filepath.Base(l.Manifest()), keys.UseSubjectHash, errNoSubjectKey)
	}
	pin, err := secret.ReadPIN(l.PIN())
	if err != nil {
		return fmt.Errorf("adding a subject key: %w", err)
	}
	defer pin.Wipe()
	if err := l.makeSubjectKey(ctx, o, pin, m); err != nil {
		return fmt.Errorf("adding a subject key: %w", err)
	}
	return l.writeManifest(m)
}

func (l Layout) writeManifest(m *keys.Manifest) error {
	data, err := m.Marshal()
	if err != nil {
		return err
	}
	return ReplaceFile(l.Manifest(), data, 0o600)
}

// act lets an admin process do one thing with the token. pin stays the
// caller's.
func (l Layout) act(ctx context.Context, o Options, pin secret.Secret, a admin.Act) (admin.Result, error) {
	a.TokenLabel, a.PIN = TokenLabel, pin
	return admin.Run(ctx, admin.Options{
		Binary: o.HSMBinary, Module: o.Module, Environ: []string{l.environ()},
	}, a)
}
