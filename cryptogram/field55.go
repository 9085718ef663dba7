package cryptogram

import "errors"

// MaxField55Bytes bounds the chip data of one transaction. ISO 8583 allows 255
// or 999 bytes, depending on the edition.
const MaxField55Bytes = 1024

// Errors of ParseField55 for the field as a whole. Errors of one data object
// are TagErrors.
var (
	ErrField55Empty  = errors.New("field 55: empty")
	ErrField55Length = errors.New("field 55: more than 1024 bytes")
)

// ParseField55 reads the BER-TLV data objects of ISO 8583 field 55, 1 to
// MaxField55Bytes bytes. The elements that a verification needs are copied,
// with their EMV lengths checked; other objects are skipped if they are well
// formed. Any fault is an error and then the CardData must not be used. It
// keeps no reference to b.
func ParseField55(b []byte) (CardData, error) {
	var c CardData
	err := c.parseField55(b)
	return c, err
}

func (c *CardData) parseField55(b []byte) error {
	if len(b) == 0 {
		return ErrField55Empty
	}
	if len(b) > MaxField55Bytes {
		return ErrField55Length
	}
	var seen tagSet
	for at := 0; at < len(b); {
		o, next, err := nextObject(b, at)
		if err != nil {
			return err
		}
		if !seen.add(o.tag) {
			return objectError(o.tag, at, "duplicate")
		}
		if el := elementOf(o.tag); el != noElement {
			if err := c.set(el, o.tag, o.value); err != nil {
				return err
			}
		}
		at = next
	}
	return nil
}
