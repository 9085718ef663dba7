package verdict

import (
	"errors"

	"github.com/tapseal/tapseal/cryptogram"
)

// Purpose is the number of tapseal.v1.Purpose.
type Purpose int32

// Purposes. The zero value is an error.
const (
	Authorise Purpose = 1
	Advice    Purpose = 2
)

// Limits of a tap.
const (
	MaxRequestIDBytes = 64
	MaxTimeoutMS      = 10_000
	MaxNameBytes      = 64 // of a merchant or device
)

// A Tap is one transaction as a caller submitted it, nothing checked yet. It
// refers to the memory of the request and is not kept.
type Tap struct {
	RequestID string
	Purpose   Purpose
	Field55   []byte  // BER-TLV; nil if the card's data came as Values
	Values    []Value // nil if it came as Field55
	CVR       []byte  // card verification results beside either of them
	PAN       string
	PSN       string // used if HasPSN
	HasPSN    bool
	Profile   string // empty if the card's data says it
	TimeoutMS uint32 // 0 is the default
	Response  cryptogram.Response
	Caller    string // whom the policy takes the caller for
	Place     Place
}

// A Place is where a tap came from, in the caller's words. Empty is not known.
type Place struct {
	Channel  int32  // number of tapseal.v1.Channel
	Category string // merchant category code
	Terminal []byte // tag 9F35
	Merchant string
	Device   string
}

// A Value is one data element that came by itself.
type Value struct {
	Tag   cryptogram.Tag
	Bytes []byte
}

// An InputError says which field of the request is wrong, and why. It never
// holds a value of the request.
type InputError struct {
	Field   string // as in the API definition, for example "pan"
	Problem string
}

// Error names the field and the problem.
func (e *InputError) Error() string { return e.Field + ": " + e.Problem }

// errInternal is what a caller sees of an error whose text is not known to be
// free of request data.
var errInternal = errors.New("chip_data: cannot be processed")

// CheckRequestID refuses an id that could not be told from another one in a
// log or journal.
func CheckRequestID(id string) error {
	if id == "" {
		return &InputError{"request_id", "is required"}
	}
	if len(id) > MaxRequestIDBytes {
		return &InputError{"request_id", "must have at most 64 characters"}
	}
	for i := range len(id) {
		if id[i] < '!' || id[i] > '~' {
			return &InputError{"request_id", "must be printable ASCII without spaces"}
		}
	}
	return nil
}

// checkEnvelope checks everything that is not card data.
func checkEnvelope(t *Tap) error {
	if err := CheckRequestID(t.RequestID); err != nil {
		return err
	}
	switch t.Purpose {
	case Authorise, Advice:
	case 0:
		return &InputError{"purpose", "is required"}
	default:
		return &InputError{"purpose", "is not a known value"}
	}
	if t.TimeoutMS > MaxTimeoutMS {
		return &InputError{"timeout_ms", "must be 1 to 10000, or 0 for the default"}
	}
	if t.Response.Kind != cryptogram.NoResponse && t.Purpose != Authorise {
		return &InputError{"purpose", "must be PURPOSE_AUTHORISE for a response cryptogram"}
	}
	return nil
}

// parseCard reads the card's data into c, which it overwrites.
func parseCard(t *Tap, c *cryptogram.CardData) error {
	switch {
	case t.Field55 == nil && t.Values == nil:
		return &InputError{"chip_data", "is required: field55 or values"}
	case t.Field55 != nil:
		var err error
		if *c, err = cryptogram.ParseField55(t.Field55); err != nil {
			return inField("field55", err)
		}
	default:
		*c = cryptogram.CardData{}
		for _, v := range t.Values {
			if err := c.Set(v.Tag, v.Bytes); err != nil {
				return inField("values", err)
			}
		}
	}
	if len(t.CVR) > 0 {
		if err := c.SetCVR(t.CVR); err != nil {
			return inField("card_verification_results", err)
		}
	}
	return nil
}

// parseSubject reads PAN and sequence number of the request.
func parseSubject(t *Tap) (pan cryptogram.PAN, psn cryptogram.PSN, err error) {
	if t.PAN == "" {
		return pan, psn, &InputError{"pan", "is required"}
	}
	if pan, err = cryptogram.ParsePAN(t.PAN); err != nil {
		return pan, psn, inField("pan", err)
	}
	if t.HasPSN {
		if psn, err = cryptogram.ParsePSN(t.PSN); err != nil {
			return pan, psn, inField("psn", err)
		}
	}
	return pan, psn, nil
}

// inField adds the field to an error of the domain, unless it names a tag
// itself. The domain's errors never carry a value.
func inField(field string, err error) error {
	var tag cryptogram.TagError
	if errors.As(err, &tag) {
		return err
	}
	return &InputError{field, err.Error()}
}
