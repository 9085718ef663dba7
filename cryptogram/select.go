package cryptogram

import "errors"

// Errors of selecting a profile. They never carry a value.
var (
	// ErrProfileNotInIAD is for schemes whose issuer application data has no
	// public layout: the caller has to name the profile.
	ErrProfileNotInIAD = errors.New("the scheme's issuer application data has no public layout: name the profile")
	ErrScheme          = errors.New("unknown scheme")
	ErrProfile         = errors.New("unknown profile")
	ErrKeyOption       = errors.New("the profile does not allow this ICC master key option")
)

// SelectProfile finds the profile of a card of scheme s from its issuer
// application data, with the derivation key index. Data that the scheme's
// cards do not have, and an unknown or unsupported cryptogram version, are
// TagErrors for 9F10.
func SelectProfile(s Scheme, iad IAD) (p *Profile, dki byte, err error) {
	if s.known() && !HasIADLayout(s) {
		return nil, 0, ErrProfileNotInIAD
	}
	if !s.known() {
		return nil, 0, ErrScheme
	}
	if iad.Len == 0 {
		return nil, 0, missing(TagIAD)
	}
	info, problem := parseSchemeIAD(s, iad.value())
	if problem != "" {
		return nil, 0, TagError{TagIAD, problem}
	}
	for i := range table {
		if table[i].Scheme == s && table[i].CVN == info.CVN {
			return &table[i], info.DKI, nil
		}
	}
	if name := unsupportedName(s, info.CVN); name != "" {
		return nil, 0, TagError{TagIAD, "cryptogram version of the unsupported profile " + name}
	}
	return nil, 0, TagError{TagIAD, "unknown cryptogram version"}
}

func (s Scheme) known() bool { return s != 0 && int(s) < len(schemes) }
