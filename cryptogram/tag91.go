package cryptogram

// AppendIssuerAuthenticationData appends the value of tag 91 as the card
// expects it: ARPC ‖ ARC for method 1, ARPC ‖ CSU ‖ proprietary authentication
// data for method 2, as reported by pyemv, jPOS and openemv/emv-utils. Without
// a response it appends nothing.
func AppendIssuerAuthenticationData(dst, arpc []byte, r *Response) []byte {
	switch r.Kind {
	case ResponseCode:
		return append(append(dst, arpc...), r.ARC[:]...)
	case CardStatusUpdate:
		dst = append(append(dst, arpc...), r.CSU[:]...)
		return append(dst, r.PAD[:min(int(r.PADLen), len(r.PAD))]...)
	}
	return dst
}
