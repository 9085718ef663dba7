package conformance

import (
	"bytes"

	"github.com/tapseal/tapseal/cryptogram"
)

// preparePadding: ISO/IEC 9797-1 padding, in software.
func preparePadding(v *vector) (*work, error) {
	data, err := v.in.bytes("data")
	if err != nil {
		return nil, err
	}
	padding, err := v.in.oneOf("padding", paddingNames()...)
	if err != nil {
		return nil, err
	}
	block, err := v.in.number("block_len")
	if err != nil {
		return nil, err
	}
	if block != 8 && block != 16 {
		return nil, badField("block_len", "want 8 or 16")
	}
	padded := padMessage(data, padding, int(block))
	w := &work{}
	for _, f := range v.sets() {
		if !f.has("padded") {
			continue
		}
		want, err := f.bytes("padded")
		if err != nil {
			return nil, err
		}
		w.assert(f.prefix+"padded", bytes.Equal(want, padded))
	}
	return w, nil
}

func paddingNames() []string { return []string{"iso9797_m1", "iso9797_m2", "iso9797_m3", "none"} }

// padMessage pads with the product's own code. The name must be one of
// paddingNames.
func padMessage(data []byte, padding string, blockBytes int) []byte {
	method := cryptogram.PaddingMethod1
	switch padding {
	case "none":
		return data
	case "iso9797_m2":
		method = cryptogram.PaddingMethod2
	case "iso9797_m3":
		method = cryptogram.PaddingMethod3
	}
	padded, err := cryptogram.AppendPaddedBlocks(nil, data, method, blockBytes)
	if err != nil {
		return nil // an empty message is refused where it matters
	}
	return padded
}
