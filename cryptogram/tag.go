package cryptogram

import "fmt"

// A Tag is a BER-TLV tag of one or two bytes, EMV Book 3 annex A: 0x95 or
// 0x9F36. The zero value is no tag.
type Tag uint16

// Tags that a verification reads.
const (
	TagTrack2           Tag = 0x57   // track 2 equivalent data
	TagPAN              Tag = 0x5A   // application PAN
	TagAIP              Tag = 0x82   // application interchange profile
	TagTVR              Tag = 0x95   // terminal verification results
	TagDate             Tag = 0x9A   // transaction date, YYMMDD
	TagType             Tag = 0x9C   // transaction type
	TagCurrency         Tag = 0x5F2A // transaction currency code
	TagPSN              Tag = 0x5F34 // PAN sequence number
	TagAmountAuthorised Tag = 0x9F02 // amount, authorised
	TagAmountOther      Tag = 0x9F03 // amount, other
	TagIAD              Tag = 0x9F10 // issuer application data
	TagTerminalCountry  Tag = 0x9F1A // terminal country code
	TagCryptogram       Tag = 0x9F26 // application cryptogram
	TagCID              Tag = 0x9F27 // cryptogram information data
	TagATC              Tag = 0x9F36 // application transaction counter
	TagUN               Tag = 0x9F37 // unpredictable number
)

// String is the tag in upper-case hexadecimal, 2 or 4 digits.
func (t Tag) String() string {
	if t <= 0xFF {
		return fmt.Sprintf("%02X", uint16(t))
	}
	return fmt.Sprintf("%04X", uint16(t))
}

// A TagError says what is wrong with one data object. It never carries a
// value, so its text may go to a caller or a log. Tag is zero for an object
// whose tag is not one that EMV defines: after a wrong length the next "tag"
// is really part of a value, and two bytes of a PAN are still a PAN's.
type TagError struct {
	Tag     Tag
	Problem string
}

// Error names the tag and the problem: "tag 9F36: want 2 bytes, got 3".
func (e TagError) Error() string {
	if e.Tag == 0 {
		return "field 55: " + e.Problem
	}
	return "tag " + e.Tag.String() + ": " + e.Problem
}

// missing is the error for a tag that the profile needs.
func missing(t Tag) error { return TagError{t, "missing"} }

// definedByEMV reports whether t is a data element that terminals put into
// field 55, EMV Book 3 annex A table 37 and common scheme additions. Only such
// tags are named in errors; all well-formed tags are accepted.
func definedByEMV(t Tag) bool {
	switch t {
	case 0x42, 0x4F, 0x50, TagTrack2, TagPAN, 0x71, 0x72, TagAIP, 0x84, 0x8A, 0x8E, 0x91,
		TagTVR, TagDate, 0x9B, TagType,
		0x5F20, 0x5F24, 0x5F25, 0x5F28, TagCurrency, 0x5F2D, 0x5F30, TagPSN, 0x5F36,
		0x9F01, TagAmountAuthorised, TagAmountOther, 0x9F06, 0x9F07, 0x9F08, 0x9F09,
		0x9F0D, 0x9F0E, 0x9F0F, TagIAD, 0x9F11, 0x9F12, 0x9F14, 0x9F15, 0x9F16, TagTerminalCountry,
		0x9F1B, 0x9F1C, 0x9F1D, 0x9F1E, 0x9F1F, 0x9F21, 0x9F24, 0x9F25, TagCryptogram, TagCID,
		0x9F33, 0x9F34, 0x9F35, TagATC, TagUN, 0x9F39, 0x9F40, 0x9F41, 0x9F42, 0x9F4C, 0x9F53,
		0x9F5B, 0x9F66, 0x9F6C, 0x9F6E, 0x9F7C:
		return true
	}
	return false
}
