package cryptogram

import (
	"errors"
	"fmt"
)

// Errors of a request that concern no tag. They never carry a value.
var (
	errCVRTwice      = errors.New("card verification results: given twice")
	errCVRLength     = errors.New("card verification results: want 1 to 6 bytes")
	errCVRNotTaken   = errors.New("card verification results: the profile takes them from tag 9F10, do not give them")
	errPSNConflict   = TagError{TagPSN, "differs from the sequence number of the request"}
	errPANConflict   = TagError{TagPAN, "differs from the PAN of the request"}
	errTrackConflict = TagError{TagTrack2, "its PAN differs from the PAN of the request"}
	errPANMissing    = errors.New("PAN: missing")
)

// NewRequest fills in out from what the card sent, for a card of profile p
// with ICC master key option opt. All elements that the profile authenticates
// must be present. Tags 5A and 57, where the card sent them, must agree with
// pan. The sequence number is that of tag 5F34, else psn if hasPSN, else 00;
// if both are there they must agree. out.Response is left at none.
func NewRequest(c *CardData, pan PAN, psn PSN, hasPSN bool, p *Profile, opt KeyOption, out *Request) error {
	*out = Request{Profile: p.ID, KeyOption: opt, PAN: pan}
	if err := checkAgreement(c, pan, psn, hasPSN); err != nil {
		return err
	}
	if err := checkPresent(c, p); err != nil {
		return err
	}
	switch {
	case c.has(elPSN):
		out.PSN = c.psn
	case hasPSN:
		out.PSN = psn
	}
	out.Data = c.tx
	out.Cryptogram = c.cryptogram
	if p.NeedsIAD() {
		out.IAD = c.iad
	}
	if p.CVRFrom == CVRFromCaller {
		out.CVR = c.cvr
	}
	_, err := checkRequest(out, p)
	return err
}

func checkAgreement(c *CardData, pan PAN, psn PSN, hasPSN bool) error {
	switch {
	case pan.IsZero():
		return errPANMissing
	case c.has(elPAN) && c.pan != pan:
		return errPANConflict
	case c.has(elTrack2) && c.trackPAN != pan:
		return errTrackConflict
	case c.has(elPSN) && hasPSN && c.psn != psn:
		return errPSNConflict
	}
	return nil
}

func checkPresent(c *CardData, p *Profile) error {
	for _, e := range transactionTags {
		if !c.has(e.el) {
			return missing(e.tag)
		}
	}
	if !c.has(elCryptogram) {
		return missing(TagCryptogram)
	}
	if p.NeedsIAD() && !c.has(elIAD) {
		return missing(TagIAD)
	}
	fromCaller := p.CVRFrom == CVRFromCaller
	if fromCaller && !c.has(elCVR) {
		return fmt.Errorf("card verification results: missing, profile %s needs %d bytes", p.Name, p.CVRBytes)
	}
	if !fromCaller && c.has(elCVR) {
		return errCVRNotTaken
	}
	return nil
}
