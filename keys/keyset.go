package keys

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/tapseal/tapseal/cryptogram"
)

// IDBytes is the length of a key id.
const IDBytes = 16

// ID names one version of one key set for ever: it is the CKA_ID of the token
// object, random at birth and never reused. It is not secret. The zero value
// names no key.
type ID [IDBytes]byte

// ParseID reads 32 hexadecimal digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*IDBytes {
		return ID{}, fmt.Errorf("key id must have %d hexadecimal digits", 2*IDBytes)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ID{}, fmt.Errorf("key id: %w", err)
	}
	if id == (ID{}) {
		return ID{}, fmt.Errorf("key id must not be all zero")
	}
	return id, nil
}

// String is the id in hexadecimal.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Use is the one thing a key set is for. Each use has one object template in
// hsm/pkcs11. The zero value is invalid.
type Use uint8

// Uses.
const (
	UseIssuerAC    Use = 1 // issuer master key for application cryptograms (IMK-AC)
	UseSubjectHash Use = 2 // names subjects (PAN and sequence number) in stored state
)

var useNames = [...]string{UseIssuerAC: "issuer-ac", UseSubjectHash: "subject-hash"}

// String is the name of the use as in the manifest.
func (u Use) String() string {
	if u.Known() {
		return useNames[u]
	}
	return fmt.Sprintf("use(%d)", uint8(u))
}

// Known reports whether u is one of the uses.
func (u Use) Known() bool { return u >= UseIssuerAC && int(u) < len(useNames) }

func parseUse(s string) (Use, error) {
	for u := UseIssuerAC; u.Known(); u++ {
		if useNames[u] == s {
			return u, nil
		}
	}
	return 0, fmt.Errorf("unknown use %q, want one of %s", s, strings.Join(useNames[UseIssuerAC:], ", "))
}

// State is the life-cycle state of a key version, NIST SP 800-57 part 1
// clause 7. The zero value is invalid.
type State uint8

// States. Only Active serves requests.
const (
	PreActive   State = 1
	Active      State = 2
	Suspended   State = 3
	Deactivated State = 4
	Compromised State = 5
	Destroyed   State = 6
)

var stateNames = [...]string{
	PreActive: "pre-active", Active: "active", Suspended: "suspended",
	Deactivated: "deactivated", Compromised: "compromised", Destroyed: "destroyed",
}

// String is the name of the state as in the manifest.
func (s State) String() string {
	if s >= PreActive && int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// Verifies reports whether a key in this state may answer requests.
func (s State) Verifies() bool { return s == Active }

func parseState(name string) (State, error) {
	for s := PreActive; int(s) < len(stateNames); s++ {
		if stateNames[s] == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown state %q, want one of %s", name, strings.Join(stateNames[PreActive:], ", "))
}

// A Version is one key of a set, with what proves that the token holds the
// right one.
type Version struct {
	Number     uint32 // 1, 2, …
	ID         ID
	State      State
	CheckValue [3]byte // first 3 bytes of DES3(K)[0^8], method tdes_zero; UseSubjectHash: see SubjectCheckInput
	Canary     [8]byte // outcome of cryptogram.CanaryPlan, recorded at birth; UseSubjectHash: see SubjectCanaryInput
}

// A Set is a family of key versions with one owner and one use. Profiles
// binds it: no other profile is ever computed under its keys. A set of
// UseSubjectHash has none.
type Set struct {
	Name     string
	Use      Use
	Profiles []cryptogram.ProfileID
	Versions []Version
}

// A Manifest is what the token of one deployment holds. The worker reads it
// from its own configuration, not from the daemon, so a compromised daemon
// cannot widen what a key may serve.
type Manifest struct {
	Deployment string
	Sets       []Set
}
