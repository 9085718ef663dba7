package cryptogram

import (
	"fmt"
	"slices"
)

// Scheme is the family whose issuer application data layout and rules apply.
// The zero value is invalid.
type Scheme uint8

// Schemes.
const (
	SchemeVisa       Scheme = 1
	SchemeMastercard Scheme = 2
	SchemeInterac    Scheme = 3
	SchemeCCD        Scheme = 4 // EMV common core definitions
	SchemePBOC       Scheme = 5
)

// KeyOption is the EMV Book 2 annex A1.4 way from the issuer master key to the
// ICC master key. The zero value is invalid.
type KeyOption uint8

// Options. Option B differs from A only for PANs of more than 16 digits.
const (
	OptionA KeyOption = 1
	OptionB KeyOption = 2
)

// SessionKeyMethod is the way from ICC master key to AC session key. The zero
// value is invalid.
type SessionKeyMethod uint8

// Session key methods, as SessionKeyInput computes them.
const (
	SessionKeyNone       SessionKeyMethod = 1 // the ICC master key itself
	SessionKeyEMVCommon  SessionKeyMethod = 2 // R = ATC ‖ 0^6
	SessionKeyMastercard SessionKeyMethod = 3 // R = ATC ‖ 0000 ‖ UN
	SessionKeyPBOC       SessionKeyMethod = 4 // [0^6 ‖ ATC] ‖ [0^6 ‖ ~ATC]
)

// Padding is an ISO/IEC 9797-1 padding method. The zero value is invalid.
type Padding uint8

// Padding methods.
const (
	PaddingMethod1 Padding = 1 // zeros up to a block, only if needed
	PaddingMethod2 Padding = 2 // 80, then zeros up to a block, always
	PaddingMethod3 Padding = 3 // length in bits in front, then method 1; no profile uses it
)

// AppendedData is what follows the 33 common bytes in the cryptogram input.
// The zero value is invalid.
type AppendedData uint8

// Appended data.
const (
	AppendCVR         AppendedData = 1 // card verification results
	AppendCVRCounters AppendedData = 2 // card verification results ‖ counters
	AppendIAD         AppendedData = 3 // the whole value of tag 9F10
)

// ARPCMethod is the EMV Book 2 clause 8.2 method of the response cryptogram.
// The zero value is invalid.
type ARPCMethod uint8

// Methods.
const (
	ARPCMethod1 ARPCMethod = 1 // 8 bytes, from ARC
	ARPCMethod2 ARPCMethod = 2 // 4 bytes, from CSU and proprietary authentication data
)

// ARPCKey says under which key the response cryptogram is made. The zero value
// is invalid.
type ARPCKey uint8

// Keys of the response cryptogram.
const (
	ARPCUnderICCMasterKey ARPCKey = 1
	ARPCUnderSessionKey   ARPCKey = 2
)

// ProfileID is the stable number of a profile row: it is in the frame
// protocol and in audit records, so a number is never reused. The zero value
// is invalid.
type ProfileID uint16

// A Profile is one row of the table: which algorithms, over which data, under
// which key. It is data; the algorithms are functions.
type Profile struct {
	ID         ProfileID
	Name       string
	Scheme     Scheme
	CVN        byte // cryptogram version number as in the IAD
	SelectedBy SelectedBy
	Options    []KeyOption // allowed ICC master key options; with two, the assignment says which
	SessionKey SessionKeyMethod
	Append     AppendedData
	CVRBytes   uint8 // length of the CVR where one is appended
	CVRFrom    CVRSource
	Padding    Padding
	ARPC       ARPCMethod
	ARPCKey    ARPCKey
	Sources    []string // where each fact of the row comes from
}

// SelectedBy says how a request gets its profile. The zero value is invalid.
type SelectedBy uint8

// How a profile is selected.
const (
	SelectedByCVN    SelectedBy = 1 // from the IAD
	SelectedByCaller SelectedBy = 2 // no IAD layout is public: the caller names the profile
)

// CVRSource says where the appended CVR comes from.
type CVRSource uint8

// Sources of the CVR; 0 where none is appended.
const (
	CVRFromIAD    CVRSource = 1
	CVRFromCaller CVRSource = 2
)

// schemes are the names as configuration files spell them.
var schemes = [...]string{
	SchemeVisa:       "visa",
	SchemeMastercard: "mastercard",
	SchemeInterac:    "interac",
	SchemeCCD:        "emv-ccd",
	SchemePBOC:       "pboc",
}

// String is the name of the scheme as configuration files spell it.
func (s Scheme) String() string {
	if s == 0 || int(s) >= len(schemes) {
		return fmt.Sprintf("scheme(%d)", uint8(s))
	}
	return schemes[s]
}

// ParseScheme reads the name of a scheme: visa, mastercard, interac, emv-ccd
// or pboc.
func ParseScheme(name string) (Scheme, bool) {
	for s := SchemeVisa; int(s) < len(schemes); s++ {
		if schemes[s] == name {
			return s, true
		}
	}
	return 0, false
}

// Allows reports whether cards of this profile may have an ICC master key made
// with option opt.
func (p *Profile) Allows(opt KeyOption) bool { return slices.Contains(p.Options, opt) }

// NeedsIAD reports whether a request of this profile needs tag 9F10: to tell
// the cryptogram version, or as a part of the cryptogram input.
func (p *Profile) NeedsIAD() bool {
	return p.SelectedBy == SelectedByCVN || p.Append == AppendIAD || p.CVRFrom == CVRFromIAD
}
