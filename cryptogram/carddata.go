package cryptogram

import "fmt"

// CardData is what card and terminal sent for one transaction. It knows which
// elements are present. It holds cardholder data: never log one.
type CardData struct {
	present    uint32 // 1 << element
	psn        PSN    // 5F34
	cid        byte   // 9F27
	tx         TransactionData
	cryptogram [8]byte // 9F26
	iad        IAD     // 9F10
	cvr        CVR
	pan        PAN // 5A
	trackPAN   PAN // 57 up to the separator
}

// element indexes the bits of CardData.present. The zero value is no element.
type element uint8

const (
	noElement element = iota
	elAmountAuthorised
	elAmountOther
	elTerminalCountry
	elTVR
	elCurrency
	elDate
	elType
	elUN
	elAIP
	elATC
	elIAD
	elCryptogram
	elCID
	elPAN
	elTrack2
	elPSN
	elCVR // has no tag
)

// transactionTags are the elements that every profile authenticates, in the
// order of TransactionData.
var transactionTags = [...]struct {
	el  element
	tag Tag
}{
	{elAmountAuthorised, TagAmountAuthorised},
	{elAmountOther, TagAmountOther},
	{elTerminalCountry, TagTerminalCountry},
	{elTVR, TagTVR},
	{elCurrency, TagCurrency},
	{elDate, TagDate},
	{elType, TagType},
	{elUN, TagUN},
	{elAIP, TagAIP},
	{elATC, TagATC},
}

func elementOf(t Tag) element {
	switch t {
	case TagAmountAuthorised:
		return elAmountAuthorised
	case TagAmountOther:
		return elAmountOther
	case TagTerminalCountry:
		return elTerminalCountry
	case TagTVR:
		return elTVR
	case TagCurrency:
		return elCurrency
	case TagDate:
		return elDate
	case TagType:
		return elType
	case TagUN:
		return elUN
	case TagAIP:
		return elAIP
	case TagATC:
		return elATC
	case TagIAD:
		return elIAD
	case TagCryptogram:
		return elCryptogram
	case TagCID:
		return elCID
	case TagPAN:
		return elPAN
	case TagTrack2:
		return elTrack2
	case TagPSN:
		return elPSN
	}
	return noElement
}

func (c *CardData) has(el element) bool { return c.present&(1<<el) != 0 }

// Has reports whether the element with this tag is present.
func (c *CardData) Has(t Tag) bool {
	el := elementOf(t)
	return el != noElement && c.has(el)
}

// Set gives one element as a separate value, encoded as in its tag. A wrong
// length, a second value for the same tag and a tag that no verification
// reads are TagErrors. It keeps no reference to value.
func (c *CardData) Set(tag Tag, value []byte) error {
	el := elementOf(tag)
	if el == noElement {
		return TagError{tag, "not a data element that a verification reads"}
	}
	return c.set(el, tag, value)
}

// SetCVR gives card verification results for a profile whose issuer
// application data has no public layout, 1 to 6 bytes.
func (c *CardData) SetCVR(value []byte) error {
	if c.has(elCVR) {
		return errCVRTwice
	}
	if len(value) == 0 || len(value) > len(c.cvr.Bytes) {
		return errCVRLength
	}
	c.cvr.Len = uint8(copy(c.cvr.Bytes[:], value))
	c.present |= 1 << elCVR
	return nil
}

// IAD is the issuer application data (9F10), empty if it is absent.
func (c *CardData) IAD() IAD { return c.iad }

// CID is the cryptogram information data (9F27), which the MAC does not cover.
func (c *CardData) CID() (cid byte, ok bool) { return c.cid, c.has(elCID) }

// Kinds of application cryptogram, bits 8 and 7 of the cryptogram information
// data, EMV Book 3 clause 6.5.5.4 as reported by openemv/emv-utils.
const (
	cidKindMask = 0xC0
	cidARQC     = 0x80
)

// CheckAsksForResponse refuses a response to a card that did not ask for one:
// only an ARQC (9F27, bits 10) waits for an ARPC; a TC or an AAC ends the
// transaction. The MAC does not cover 9F27, so this guards against mistakes,
// not against fraud, and data without it passes.
func (c *CardData) CheckAsksForResponse() error {
	if c.has(elCID) && c.cid&cidKindMask != cidARQC {
		return TagError{TagCID, "not an authorisation request cryptogram, which alone gets a response"}
	}
	return nil
}

func (c *CardData) set(el element, tag Tag, v []byte) error {
	if c.has(el) {
		return TagError{tag, "duplicate"}
	}
	var problem string
	switch el {
	case elIAD:
		problem = c.setIAD(v)
	case elPAN:
		c.pan, problem = panFromTag(v)
	case elTrack2:
		c.trackPAN, problem = panFromTrack2(v)
	case elPSN:
		problem = c.setPSN(v)
	case elCID:
		problem = c.setCID(v)
	default:
		problem = copyExactly(c.fixed(el), v)
	}
	if problem != "" {
		return TagError{tag, problem}
	}
	c.present |= 1 << el
	return nil
}

// fixed is the place of an element of fixed length. The bytes are not checked
// for digits: the card authenticated what the terminal sent, and whether it
// did is for the cryptogram to say.
func (c *CardData) fixed(el element) []byte {
	switch el {
	case elAmountAuthorised:
		return c.tx.AmountAuthorised[:]
	case elAmountOther:
		return c.tx.AmountOther[:]
	case elTerminalCountry:
		return c.tx.TerminalCountry[:]
	case elTVR:
		return c.tx.TVR[:]
	case elCurrency:
		return c.tx.Currency[:]
	case elDate:
		return c.tx.Date[:]
	case elType:
		return c.tx.Type[:]
	case elUN:
		return c.tx.UN[:]
	case elAIP:
		return c.tx.AIP[:]
	case elATC:
		return c.tx.ATC[:]
	case elCryptogram:
		return c.cryptogram[:]
	}
	return nil
}

func copyExactly(dst, v []byte) (problem string) {
	if len(v) != len(dst) {
		return fmt.Sprintf("want %d bytes, got %d", len(dst), len(v))
	}
	copy(dst, v)
	return ""
}

func (c *CardData) setIAD(v []byte) (problem string) {
	if len(v) == 0 || len(v) > len(c.iad.Bytes) {
		return fmt.Sprintf("want 1 to %d bytes, got %d", len(c.iad.Bytes), len(v))
	}
	c.iad.Len = uint8(copy(c.iad.Bytes[:], v))
	return ""
}

func (c *CardData) setPSN(v []byte) (problem string) {
	if len(v) != 1 {
		return fmt.Sprintf("want 1 byte, got %d", len(v))
	}
	psn, err := PSNFromBCD(v[0])
	if err != nil {
		return "not two decimal digits"
	}
	c.psn = psn
	return ""
}

func (c *CardData) setCID(v []byte) (problem string) {
	if len(v) != 1 {
		return fmt.Sprintf("want 1 byte, got %d", len(v))
	}
	c.cid = v[0]
	return ""
}
