package cryptogram

import "slices"

// An UnsupportedProfile is one that people ask for and the table does not
// have, with the reason.
type UnsupportedProfile struct {
	Name   string
	Reason string
	scheme Scheme // 0: the IAD does not tell it
	cvn    byte
}

// unsupported is never written to.
var unsupported = [...]UnsupportedProfile{
	{
		Name:   "visa-cvn17",
		Reason: "no public source gives its list of authenticated data, and there is no public vector",
		scheme: SchemeVisa, cvn: 0x11,
	},
	{
		Name:   "visa-cvn43",
		Reason: "cloud-based payments under limited-use keys: which part of the issuer application data is authenticated is not confirmed by any public vector",
		scheme: SchemeVisa, cvn: 0x43,
	},
	{
		Name:   "mastercard-mcbp",
		Reason: "cloud-based payments with two cryptograms: known only from a proprietary SDK",
	},
	{
		Name:   "emv-ccd-aes",
		Reason: "AES card and session keys (option C): no public vector",
		scheme: SchemeCCD, cvn: ccdAES,
	},
	{
		Name:   "emv2000-tree",
		Reason: "session key tree: withdrawn by EMVCo in 2005",
	},
	{
		Name:   "amex-cvn01",
		Reason: "AEIPS: no public source gives the data list, and there is no public vector",
	},
	{
		Name:   "amex-cvn02",
		Reason: "AEIPS: no public source gives the derivation or the data list",
	},
	{
		Name:   "jcb-cvn01",
		Reason: "no public vector",
	},
	{
		Name:   "jcb-cvn04",
		Reason: "no public vector",
	},
	{
		Name:   "discover-dpas",
		Reason: "no public source found",
	},
	{
		Name:   "unionpay-emv2000",
		Reason: "public sources contradict each other on the session key; pboc-tdes has the process key of the Chinese sources",
	},
	{
		Name:   "pboc-sm4",
		Reason: "no public vector for the session key, cryptogram or response, and no readable copy of the specification",
	},
}

// Unsupported lists the profiles that are deliberately not in the table.
func Unsupported() []UnsupportedProfile { return slices.Clone(unsupported[:]) }

// unsupportedName is the name of the unsupported profile that a card's version
// byte means, empty if it means none that we know.
func unsupportedName(s Scheme, cvn byte) string {
	for i := range unsupported {
		if unsupported[i].scheme == s && unsupported[i].cvn == cvn {
			return unsupported[i].Name
		}
	}
	return ""
}
