package phone

import "fmt"

// fieldWriter writes BER-TLV data objects one after the other, as a terminal
// puts them into ISO 8583 field 55. It is a writer of its own: with the
// verifier's parser turned round, both could share one misunderstanding.
type fieldWriter struct{ b []byte }

// put writes one primitive object. Values of a field 55 are short; the long
// form of the length is there for values from 128 bytes on.
func (w *fieldWriter) put(tag uint16, value []byte) {
	if tag > 0xFF {
		w.b = append(w.b, byte(tag>>8))
	}
	w.b = append(w.b, byte(tag))
	if len(value) > 0x7F {
		w.b = append(w.b, 0x81)
	}
	w.b = append(w.b, byte(len(value)))
	w.b = append(w.b, value...)
}

// bcd packs decimal digits, two in a byte, right-aligned in n bytes.
func bcd(number uint64, n int) ([]byte, error) {
	out := make([]byte, n)
	for i := n - 1; i >= 0; i-- {
		out[i] = byte(number%10) | byte(number/10%10)<<4
		number /= 100
	}
	if number != 0 {
		return nil, fmt.Errorf("number has more than %d digits", 2*n)
	}
	return out, nil
}
