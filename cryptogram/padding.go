package cryptogram

import (
	"encoding/binary"
	"errors"
)

// ErrPadding is for a padding method or block length that does not exist.
var ErrPadding = errors.New("unknown padding method or block length")

// AppendPadded appends data to dst, padded to 8-byte blocks with method 1 or
// 2. Methods that no profile uses append nothing.
func AppendPadded(dst, data []byte, p Padding) []byte {
	switch p {
	case PaddingMethod1, PaddingMethod2:
		dst, _ = AppendPaddedBlocks(dst, data, p, BlockBytes)
	}
	return dst
}

// AppendPaddedBlocks appends data to dst, padded to a multiple of blockBytes
// (1…255) with any method of ISO/IEC 9797-1 clause 6.3. An empty message takes
// one block of zeros with method 1.
func AppendPaddedBlocks(dst, data []byte, p Padding, blockBytes int) ([]byte, error) {
	if blockBytes < 1 || blockBytes > 255 {
		return dst, ErrPadding
	}
	start := len(dst)
	switch p {
	case PaddingMethod1:
		dst = append(dst, data...)
		if len(data) == 0 {
			dst = append(dst, 0)
		}
	case PaddingMethod2:
		dst = append(append(dst, data...), 0x80)
	case PaddingMethod3:
		if blockBytes < 8 {
			return dst, ErrPadding // no room for the length in bits
		}
		for range blockBytes - 8 {
			dst = append(dst, 0)
		}
		dst = binary.BigEndian.AppendUint64(dst, uint64(len(data))*8)
		dst = append(dst, data...)
		if len(data) == 0 {
			dst = append(dst, 0) // the message itself, padded with method 1
		}
	default:
		return dst, ErrPadding
	}
	for (len(dst)-start)%blockBytes != 0 {
		dst = append(dst, 0)
	}
	return dst, nil
}
