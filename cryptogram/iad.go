package cryptogram

import "errors"

// IADApplication is the application family whose layout a value of tag 9F10
// has. The zero value is none.
type IADApplication uint8

// Application families.
const (
	IADVSDC         IADApplication = 1 // Visa, formats 0 to 4
	IADMChip4       IADApplication = 2 // Mastercard M/Chip 4
	IADMChipAdvance IADApplication = 3 // Mastercard M/Chip Advance
	IADCCD          IADApplication = 4 // EMV common core definitions
)

// String is the name of the family as the vector files spell it.
func (a IADApplication) String() string {
	switch a {
	case IADVSDC:
		return "vsdc"
	case IADMChip4:
		return "mchip4"
	case IADMChipAdvance:
		return "mchip_advance"
	case IADCCD:
		return "ccd"
	}
	return "unknown"
}

// IADCipher is the block cipher that a CCD application names in its common
// core identifier. The zero value is none.
type IADCipher uint8

// Ciphers.
const (
	IADCipherTDES IADCipher = 1
	IADCipherAES  IADCipher = 2
)

// String is the name of the cipher.
func (c IADCipher) String() string {
	switch c {
	case IADCipherTDES:
		return "TDES"
	case IADCipherAES:
		return "AES"
	}
	return "unknown"
}

// IADInfo is issuer application data taken apart. The slices are parts of the
// input. Layouts as reported by openemv/emv-utils (emv_fields.c) and jPOS
// (IssuerApplicationData).
type IADInfo struct {
	Application  IADApplication
	Format       uint8            // Visa: 0…4, the high nibble of the CVN
	DKI          byte             // derivation key index
	CVN          byte             // cryptogram version number; CCD: common core identifier
	CVR          []byte           // card verification results: Visa 4 or 5, Mastercard 6, CCD 5 bytes
	DAC          []byte           // Mastercard: data authentication code or ICC dynamic number, 2 bytes
	Counters     []byte           // Mastercard: 8 or 16 bytes, plain text or enciphered; CCD: 8 bytes
	LastATC      []byte           // Mastercard with 20 or 28 bytes: last online ATC, 2 bytes
	Issuer       []byte           // issuer discretionary data, with its length byte where there is one
	SessionKey   SessionKeyMethod // Mastercard: what the CVN says; else 0
	CountersInAC bool             // Mastercard: the counters are part of the cryptogram input
	Cipher       IADCipher        // CCD only
}

// ErrIADUnknown is for issuer application data that has none of the layouts
// that ParseIAD knows. The layouts of Interac and PBOC are not public.
var ErrIADUnknown = errors.New("tag 9F10: no known layout")

// ParseIAD finds out which layout b has and takes it apart, without knowing
// the scheme: CCD first, then Mastercard, then Visa, which is the order of
// openemv/emv-utils. A verification does not guess: it uses the layout of the
// scheme that the assignment names. 18 bytes are reported as M/Chip 4, which
// M/Chip Advance without the last online ATC cannot be told from.
func ParseIAD(b []byte) (IADInfo, error) {
	for _, s := range [...]Scheme{SchemeCCD, SchemeMastercard, SchemeVisa} {
		if info, problem := parseSchemeIAD(s, b); problem == "" {
			return info, nil
		}
	}
	return IADInfo{}, ErrIADUnknown
}

// HasIADLayout reports whether a public source gives the layout of tag 9F10
// for the scheme.
func HasIADLayout(s Scheme) bool {
	return s == SchemeVisa || s == SchemeMastercard || s == SchemeCCD
}

// IADKeyIndex is the derivation key index in the issuer application data of a
// card of scheme s. It is not ok if the layout is not public or does not fit.
func IADKeyIndex(s Scheme, iad IAD) (dki byte, ok bool) {
	info, problem := parseSchemeIAD(s, iad.value())
	return info.DKI, problem == ""
}

// value is the used part of iad, nothing if the length is impossible.
func (iad *IAD) value() []byte {
	if int(iad.Len) > len(iad.Bytes) {
		return nil
	}
	return iad.Bytes[:iad.Len]
}

// parseSchemeIAD takes b apart by the layout of scheme s. The problem never
// carries a value and is empty if there is none.
func parseSchemeIAD(s Scheme, b []byte) (info IADInfo, problem string) {
	switch s {
	case SchemeVisa:
		return parseVisaIAD(b)
	case SchemeMastercard:
		return parseMastercardIAD(b)
	case SchemeCCD:
		return parseCCDIAD(b)
	}
	return IADInfo{}, "layout of this scheme is not public"
}

// Visa layouts. Formats 0, 1 and 3: 06 DKI CVN 03 and three more bytes of CVR,
// then issuer data. Formats 2 and 4: 1F CVN DKI CVR(5) and 24 bytes of issuer
// data; CVN and DKI change places.
const (
	visaShortLength = 0x06
	visaShortBytes  = 7 // at least
	visaCVRLength   = 0x03
	visaLongLength  = 0x1F
	visaLongBytes   = 32 // exactly
)

func parseVisaIAD(b []byte) (IADInfo, string) {
	info := IADInfo{Application: IADVSDC}
	switch {
	case len(b) >= visaShortBytes && len(b) <= 32 && b[0] == visaShortLength && b[3] == visaCVRLength:
		info.DKI, info.CVN = b[1], b[2]
		info.CVR, info.Issuer = b[3:7], b[7:]
	case len(b) == visaLongBytes && b[0] == visaLongLength:
		info.CVN, info.DKI = b[1], b[2]
		info.CVR, info.Issuer = b[3:8], b[8:]
	default:
		return IADInfo{}, "not laid out as a Visa card's"
	}
	info.Format = info.CVN >> 4
	long := info.Format == 2 || info.Format == 4
	if info.Format > 4 || long != (b[0] == visaLongLength) {
		return IADInfo{}, "cryptogram version does not fit the layout"
	}
	return info, ""
}

// Mastercard layout: DKI CVN CVR(6) DAC(2) counters(8 or 16) [last ATC(2)].
const (
	mchip4Bytes          = 18
	mchipLastATCBytes    = 20
	mchipCounters16Bytes = 26
	mchipLongestBytes    = 28

	// Bits of the M/Chip cryptogram version number: 0001 0s0c, s = EMV common
	// session key, c = counters in the cryptogram input.
	mchipFixedMask = 0xFA
	mchipFixed     = 0x10
	mchipCommonKey = 0x04
	mchipCounters  = 0x01
)

func parseMastercardIAD(b []byte) (IADInfo, string) {
	info := IADInfo{Application: IADMChipAdvance}
	counters := 8
	switch len(b) {
	case mchip4Bytes:
		info.Application = IADMChip4
	case mchipLastATCBytes:
	case mchipCounters16Bytes, mchipLongestBytes:
		counters = 16
	default:
		return IADInfo{}, "want 18, 20, 26 or 28 bytes for a Mastercard card"
	}
	info.DKI, info.CVN = b[0], b[1]
	if info.CVN&mchipFixedMask != mchipFixed {
		return IADInfo{}, "unknown cryptogram version"
	}
	info.SessionKey = SessionKeyMastercard
	if info.CVN&mchipCommonKey != 0 {
		info.SessionKey = SessionKeyEMVCommon
	}
	info.CountersInAC = info.CVN&mchipCounters != 0
	info.CVR, info.DAC = b[2:8], b[8:10]
	info.Counters = b[10 : 10+counters]
	if rest := b[10+counters:]; len(rest) > 0 {
		info.LastATC = rest
	}
	return info, ""
}

// CCD layout, EMV Book 3 annex C9 as reported by openemv/emv-utils: 0F CCI DKI
// CVR(5) counters(8) 0F issuer data(15).
const (
	ccdBytes      = 32
	ccdHalfLength = 0x0F
	ccdTDES       = 0xA5
	ccdAES        = 0xA6
)

func parseCCDIAD(b []byte) (IADInfo, string) {
	if len(b) != ccdBytes || b[0] != ccdHalfLength || b[16] != ccdHalfLength {
		return IADInfo{}, "not laid out as a CCD card's"
	}
	info := IADInfo{
		Application: IADCCD,
		CVN:         b[1], DKI: b[2], CVR: b[3:8], Counters: b[8:16], Issuer: b[16:],
	}
	switch info.CVN {
	case ccdTDES:
		info.Cipher = IADCipherTDES
	case ccdAES:
		info.Cipher = IADCipherAES
	default:
		return IADInfo{}, "unknown cryptogram version"
	}
	return info, ""
}
