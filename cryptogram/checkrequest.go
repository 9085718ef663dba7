package cryptogram

import (
	"errors"
	"fmt"
)

// Errors of a response that does not fit. They never carry a value.
var (
	errResponseKind   = errors.New("response: unknown kind")
	errResponseCSU    = errors.New("response: the profile's ARPC method takes a response code, not a card status update")
	errResponseARC    = errors.New("response: the profile's ARPC method takes a card status update, not a response code")
	errResponsePAD    = errors.New("response: proprietary authentication data has more than 8 bytes")
	errResponseUnused = errors.New("response: proprietary authentication data without a card status update")
)

// checkRequest is everything that a request must satisfy before it becomes a
// plan. The daemon runs it for its error texts, the worker because it does not
// trust the daemon.
func checkRequest(r *Request, p *Profile) (IADInfo, error) {
	if !p.Allows(r.KeyOption) {
		return IADInfo{}, ErrKeyOption
	}
	if r.PAN.IsZero() {
		return IADInfo{}, errPANMissing
	}
	if err := checkCVR(r, p); err != nil {
		return IADInfo{}, err
	}
	if err := p.CheckResponse(r.Response); err != nil {
		return IADInfo{}, err
	}
	return checkIAD(r, p)
}

func checkCVR(r *Request, p *Profile) error {
	want := uint8(0)
	if p.CVRFrom == CVRFromCaller {
		want = p.CVRBytes
	}
	if r.CVR.Len != want {
		return fmt.Errorf("card verification results: profile %s takes %d bytes", p.Name, want)
	}
	return nil
}

// checkIAD takes the issuer application data apart where the layout is public,
// and refuses a card of another version: a profile is never applied to data
// that says it is something else.
func checkIAD(r *Request, p *Profile) (IADInfo, error) {
	if !p.NeedsIAD() {
		if r.IAD.Len != 0 {
			return IADInfo{}, TagError{TagIAD, "not used by profile " + p.Name}
		}
		return IADInfo{}, nil
	}
	b := r.IAD.value()
	if len(b) == 0 {
		return IADInfo{}, missing(TagIAD)
	}
	if p.SelectedBy != SelectedByCVN {
		return IADInfo{}, nil
	}
	info, problem := parseSchemeIAD(p.Scheme, b)
	if problem != "" {
		return IADInfo{}, TagError{TagIAD, problem}
	}
	if info.CVN != p.CVN {
		return IADInfo{}, TagError{TagIAD, "cryptogram version is not that of profile " + p.Name}
	}
	if p.CVRFrom == CVRFromIAD && len(info.CVR) != int(p.CVRBytes) {
		return IADInfo{}, TagError{TagIAD, "card verification results have the wrong length"}
	}
	return info, nil
}

// CheckResponse reports whether r asks for nothing, or for the ARPC that cards
// of this profile take.
func (p *Profile) CheckResponse(r Response) error {
	switch r.Kind {
	case NoResponse, ResponseCode:
		if r.Kind == ResponseCode && p.ARPC != ARPCMethod1 {
			return errResponseARC
		}
		if r.PADLen != 0 {
			return errResponseUnused
		}
		return nil
	case CardStatusUpdate:
		if p.ARPC != ARPCMethod2 {
			return errResponseCSU
		}
		if int(r.PADLen) > len(r.PAD) {
			return errResponsePAD
		}
		return nil
	}
	return errResponseKind
}
