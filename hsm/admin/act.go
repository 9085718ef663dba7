package admin

import (
	"fmt"
	"strings"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
)

// LabelPrefix starts the label of every token that an act may touch, so that
// no slip of a configuration can change a token that is not for development.
const LabelPrefix = "tapseal-dev"

// maxLabelBytes is the length of CK_TOKEN_INFO.label, PKCS#11 v2.40 clause 3.2.
const maxLabelBytes = 32

// An Operation names an act. The zero value is invalid.
type Operation string

// Operations.
const (
	// InitToken initialises a new token with the label and the PIN. It refuses a label that exists. On SoftHSM the security
	// officer's PIN is random and forgotten: a development token is
	// deleted, never reset. On NSS softokn, with the arguments of NSSArgs,
	// it sets the PIN of a database that has none yet. Other modules are
	// refused.
	InitToken Operation = "init-token"
	// ImportDemoKey makes an issuer AC key from a published test value,
	// reads it back and records its canary.
	ImportDemoKey Operation = "import-demo-key"
	// MakeSubjectKey generates a subject key in the token, reads it back and
	// records its check value and canary. Nobody ever has its value.
	MakeSubjectKey Operation = "make-subject-key"
	// Inventory lists the secret keys of the token and what is wrong with
	// their attributes.
	Inventory Operation = "inventory"
)

// An Act is one thing to do, by one admin process.
type Act struct {
	Operation  Operation
	TokenLabel string        // starts with LabelPrefix
	PINFile    string        // user PIN: regular file, mode 0600, owned by the effective user
	PIN        secret.Secret // user PIN that is in no file, instead
	Key        *DemoKey      // ImportDemoKey only
	Label      string        // MakeSubjectKey only: CKA_LABEL, for people
}

// A DemoKey is a published test value to import: never a live key, because the
// value passes through this process in clear.
type DemoKey struct {
	Label string   // CKA_LABEL, for people: nothing is ever looked up by it
	Value [16]byte // K1 ‖ K2
}

// NSSArgs are the module arguments for an NSS softokn database in dir, an
// absolute path, whose token has the label. Neither may hold a quote.
func NSSArgs(dir, label string) string {
	return fmt.Sprintf("configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' dbTokenDescription='%s' flags=", dir, label)
}

// Check reports what is wrong with an act before a process is started for it;
// the admin process checks again.
func (a *Act) Check() error {
	switch {
	case !strings.HasPrefix(a.TokenLabel, LabelPrefix):
		return fmt.Errorf("token label %q does not start with %q: admin acts are for development tokens", a.TokenLabel, LabelPrefix)
	case len(a.TokenLabel) > maxLabelBytes:
		return fmt.Errorf("token label %q has more than %d bytes", a.TokenLabel, maxLabelBytes)
	case (a.PINFile == "") == a.PIN.IsZero():
		return fmt.Errorf("act %q: needs a pin file or a PIN, and not both", a.Operation)
	}
	if (a.Operation == MakeSubjectKey) != (a.Label != "") {
		return fmt.Errorf("act %q: the label of a new key is missing, or there is none to make", a.Operation)
	}
	switch a.Operation {
	case InitToken, Inventory, MakeSubjectKey:
		if a.Key != nil {
			return fmt.Errorf("act %q takes no key", a.Operation)
		}
	case ImportDemoKey:
		if a.Key == nil || a.Key.Label == "" {
			return fmt.Errorf("act %q: key or its label is missing", a.Operation)
		}
	default:
		return fmt.Errorf("unknown act %q", a.Operation)
	}
	return nil
}

// A Result is what an act gives back; which field is set depends on the act.
type Result struct {
	TokenSerial string   // InitToken
	Key         *MadeKey // ImportDemoKey, MakeSubjectKey
	Objects     []Object // Inventory
}

// A MadeKey describes a key after it was made and read back: what a manifest
// needs to recognise it, see keys.Version.
type MadeKey struct {
	ID         keys.ID // random, CKA_ID
	CheckValue [3]byte // computed in the token
	Canary     [8]byte
}

// An Object is one secret key of an inventory.
type Object struct {
	ID         []byte   // CKA_ID, of any length: it may be an object that is not ours
	Label      string   // CKA_LABEL
	CheckValue []byte   // CKA_CHECK_VALUE, empty where the module gives none
	Faults     []string // differences from the template that is nearest to it
}
