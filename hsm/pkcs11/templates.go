package pkcs11

import (
	"encoding/binary"

	p11 "github.com/miekg/pkcs11"

	"github.com/tapseal/tapseal/keys"
)

// Every object that this program makes or accepts has one of the templates in
// this file, attribute by attribute with its reason. Nothing outside names an
// attribute. All purposes are written out, because their defaults differ:
// SoftHSM takes CKA_ENCRYPT and its like for true where a template is silent.

// An attribute is one line of a template.
type attribute struct {
	typ   uint
	name  string
	value []byte
	// mayBeUnknown: a module that does not know the attribute at all is
	// accepted when an object is read back; another value never is.
	mayBeUnknown bool
}

type template []attribute

func flag(typ uint, name string, v bool) attribute {
	a := attribute{typ: typ, name: name, value: []byte{0}}
	if v {
		a.value[0] = 1
	}
	return a
}

func number(typ uint, name string, v uint64) attribute {
	return attribute{typ: typ, name: name, value: binary.NativeEndian.AppendUint64(nil, v)}
}

func (a attribute) orUnknown() attribute {
	a.mayBeUnknown = true
	return a
}

// issuerACKey is an issuer master key for application cryptograms: the root of
// every derivation, and nothing else.
func issuerACKey() template {
	return append(secretDES2(),
		flag(p11.CKA_TOKEN, "CKA_TOKEN", true),     // outlives the process that made it
		flag(p11.CKA_PRIVATE, "CKA_PRIVATE", true), // invisible without the PIN

		// Fixed at birth: without these two, whoever has the PIN turns
		// DERIVE into ENCRYPT, or copies the key with other attributes.
		flag(p11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false),
		// PKCS#11 v2.40 has it; NSS softokn 3.87 does not know it.
		flag(p11.CKA_COPYABLE, "CKA_COPYABLE", false).orUnknown(),

		flag(p11.CKA_DERIVE, "CKA_DERIVE", true),    // the one purpose
		flag(p11.CKA_ENCRYPT, "CKA_ENCRYPT", false), // would reveal card keys: they are enciphered public data
	).onlyThat()
}

// subjectKey hashes subjects, and nothing else. It is generated in the token, so
// nobody ever had its value.
func subjectKey() template {
	return template{
		number(p11.CKA_CLASS, "CKA_CLASS", p11.CKO_SECRET_KEY),
		// Both SoftHSM and NSS softokn take it for CKM_SHA256_HMAC; of
		// CKK_SHA256_HMAC NSS knows nothing.
		number(p11.CKA_KEY_TYPE, "CKA_KEY_TYPE", p11.CKK_GENERIC_SECRET),
		number(p11.CKA_VALUE_LEN, "CKA_VALUE_LEN", keys.SubjectKeyBytes), // the type has no length of its own
		flag(p11.CKA_SENSITIVE, "CKA_SENSITIVE", true),                   // with its value, every record's PAN can be guessed offline
		flag(p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false),              // nor wrapped
		flag(p11.CKA_TOKEN, "CKA_TOKEN", true),                           // outlives the process that made it
		flag(p11.CKA_PRIVATE, "CKA_PRIVATE", true),                       // invisible without the PIN
		flag(p11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false),                // as for an issuer key
		flag(p11.CKA_COPYABLE, "CKA_COPYABLE", false).orUnknown(),        // as for an issuer key
		flag(p11.CKA_SIGN, "CKA_SIGN", true),                             // the one purpose
		flag(p11.CKA_VERIFY, "CKA_VERIFY", false),                        // nobody compares in the token
		flag(p11.CKA_DERIVE, "CKA_DERIVE", false),                        // a child could be readable
		flag(p11.CKA_ENCRYPT, "CKA_ENCRYPT", false),
		flag(p11.CKA_DECRYPT, "CKA_DECRYPT", false),
		flag(p11.CKA_WRAP, "CKA_WRAP", false), // the key that wraps is a key that reveals
		flag(p11.CKA_UNWRAP, "CKA_UNWRAP", false),
	}
}

// templateOf is the template of a token object of a use, nil for a use that
// has none.
func templateOf(u keys.Use) template {
	switch u {
	case keys.UseIssuerAC:
		return issuerACKey()
	case keys.UseSubjectHash:
		return subjectKey()
	}
	return nil
}

// residentChange is the only thing in which the resident copy of a key differs: it ends with the process. Everything else is inherited, because
// a template of C_CopyObject could also weaken.
func residentChange() attribute { return flag(p11.CKA_TOKEN, "CKA_TOKEN", false) }

// residentOf is what a resident copy of a key of a use must be.
func residentOf(u keys.Use) template {
	t, change := templateOf(u), residentChange()
	for i := range t {
		if t[i].typ == change.typ {
			t[i] = change
		}
	}
	return t
}

// cardKeyForDeriving is a card key from which session keys are derived. It
// lives for one plan.
func cardKeyForDeriving() template {
	return append(secretDES2(),
		flag(p11.CKA_TOKEN, "CKA_TOKEN", false),
		flag(p11.CKA_PRIVATE, "CKA_PRIVATE", true),
		flag(p11.CKA_DERIVE, "CKA_DERIVE", true),
		flag(p11.CKA_ENCRYPT, "CKA_ENCRYPT", false), // would reveal session keys
	).onlyThat()
}

// keyForComputing is a card or session key, or its KL‖KL, that enciphers the
// blocks of one plan. It cannot derive.
func keyForComputing() template {
	return append(secretDES2(),
		flag(p11.CKA_TOKEN, "CKA_TOKEN", false),
		flag(p11.CKA_PRIVATE, "CKA_PRIVATE", true),
		flag(p11.CKA_ENCRYPT, "CKA_ENCRYPT", true),
		flag(p11.CKA_DERIVE, "CKA_DERIVE", false),
	).onlyThat()
}

// secretDES2 is what all keys here have in common.
func secretDES2() template {
	return template{
		number(p11.CKA_CLASS, "CKA_CLASS", p11.CKO_SECRET_KEY),
		number(p11.CKA_KEY_TYPE, "CKA_KEY_TYPE", p11.CKK_DES2),
		flag(p11.CKA_SENSITIVE, "CKA_SENSITIVE", true),      // its value is never read
		flag(p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false), // nor wrapped
	}
}

// onlyThat denies what no key here is for.
func (t template) onlyThat() template {
	return append(t,
		flag(p11.CKA_DECRYPT, "CKA_DECRYPT", false), // with WRAP it would reveal other keys
		flag(p11.CKA_SIGN, "CKA_SIGN", false),       // a CMAC or CBC-MAC oracle under the same key
		flag(p11.CKA_VERIFY, "CKA_VERIFY", false),
		flag(p11.CKA_WRAP, "CKA_WRAP", false), // the key that wraps is a key that reveals
		flag(p11.CKA_UNWRAP, "CKA_UNWRAP", false),
	)
}

// scratchRootForDeriving and scratchRootForComputing are keys imported for one
// request of the scratch role: session objects with the attributes of derived
// keys, whatever token they are in.
func scratchRootForDeriving() template  { return cardKeyForDeriving() }
func scratchRootForComputing() template { return keyForComputing() }

// everywhereKnown is the template without what a module may not know.
func (t template) everywhereKnown() template {
	var known template
	for _, a := range t {
		if !a.mayBeUnknown {
			known = append(known, a)
		}
	}
	return known
}

// attribute is one line for miekg/pkcs11.
func (a attribute) attribute() *p11.Attribute { return &p11.Attribute{Type: a.typ, Value: a.value} }

// attributes is the template for miekg/pkcs11, with the attributes that each
// object has of its own.
func (t template) attributes(own ...*p11.Attribute) []*p11.Attribute {
	list := make([]*p11.Attribute, 0, len(t)+len(own))
	for _, a := range t {
		list = append(list, a.attribute())
	}
	return append(list, own...)
}
