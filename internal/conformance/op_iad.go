package conformance

import (
	"bytes"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
)

func iadFields() []string {
	return []string{
		"application", "iad_format", "dki", "cvn", "cvr", "dac_icc_dn", "counters",
		"session_key", "counters_in_ac", "cryptogram_algorithm",
	}
}

// prepareIAD: issuer application data taken apart, in software.
func prepareIAD(v *vector) (*work, error) {
	b, err := v.in.bytes("iad")
	if err != nil {
		return nil, err
	}
	info, err := cryptogram.ParseIAD(b)
	if err != nil {
		return nil, &wrongStep{stepValue, fmt.Sprintf("iad: %v", err)}
	}
	w := &work{}
	for _, f := range v.sets() {
		for _, field := range f.names() {
			equal, err := iadFieldEqual(f, field, &info)
			if err != nil {
				return nil, err
			}
			w.assert(f.prefix+field, equal)
		}
	}
	return w, nil
}

// iadFieldEqual compares one expected field with what was parsed. A part that
// the layout does not have equals nothing.
func iadFieldEqual(f fields, field string, info *cryptogram.IADInfo) (bool, error) {
	switch field {
	case "application":
		want, err := f.oneOf(field, "vsdc", "mchip4", "mchip_advance", "ccd")
		return want == info.Application.String(), err
	case "iad_format":
		want, err := f.number(field)
		return info.Application == cryptogram.IADVSDC && want == uint64(info.Format), err
	case "session_key":
		want, err := f.oneOf(field, "mastercard_skd", "emv_csk")
		return want == iadSessionKey(info), err
	case "counters_in_ac":
		want, err := f.truth(field)
		return want == info.CountersInAC, err
	case "cryptogram_algorithm":
		want, err := f.oneOf(field, "TDES", "AES")
		return want == info.Cipher.String(), err
	}
	want, err := f.bytes(field)
	return len(want) > 0 && bytes.Equal(want, iadBytes(info, field)), err
}

func iadBytes(info *cryptogram.IADInfo, field string) []byte {
	switch field {
	case "dki":
		return []byte{info.DKI}
	case "cvn":
		return []byte{info.CVN}
	case "cvr":
		return info.CVR
	case "dac_icc_dn":
		return info.DAC
	case "counters":
		return info.Counters
	}
	return nil
}

func iadSessionKey(info *cryptogram.IADInfo) string {
	switch info.SessionKey {
	case cryptogram.SessionKeyMastercard:
		return "mastercard_skd"
	case cryptogram.SessionKeyEMVCommon:
		return "emv_csk"
	}
	return ""
}
