package cryptogram_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
)

func options() map[string]cryptogram.KeyOption {
	return map[string]cryptogram.KeyOption{"A": cryptogram.OptionA, "B": cryptogram.OptionB}
}

func TestCardKeyVectors(t *testing.T) {
	count := 0
	for id, v := range loadVectors(t, "icc_master_key.json") {
		if v.Op != "icc_mk" {
			continue
		}
		count++
		y, err := cryptogram.Diversifier(options()[v.MKD], v.PAN, v.PSN)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		in := cryptogram.WithInverse(y)
		if in != cryptogram.ICCMasterKeyInput(options()[v.MKD], mustPAN(t, v.PAN), mustPSN(t, v.PSN)) {
			t.Errorf("%s: input from digits and from a PAN differ", id)
		}
		key := naiveDerive(unhex(t, v.IMK), in[:])
		if kcv := v.want("kcv"); kcv != "" && !hasCheckValue(key, kcv) {
			t.Errorf("%s: check value differs", id)
		}
		if value := v.want("icc_mk") + v.Own["icc_mk"]; value != "" && !sameKey(key, unhex(t, value)) {
			t.Errorf("%s: card key differs", id)
		}
	}
	if count < 15 {
		t.Fatalf("%d card key vectors, want all", count)
	}
}

func TestDiversifierVectors(t *testing.T) {
	count := 0
	for id, v := range loadVectors(t, "icc_master_key.json") {
		if v.Op != "icc_mk_y" {
			continue
		}
		count++
		var y [8]byte
		if v.SHA1 != "" {
			y = cryptogram.DecimaliseHash([20]byte(unhex(t, v.SHA1)))
		} else {
			var err error
			if y, err = cryptogram.Diversifier(options()[v.MKD], v.PAN, v.PSN); err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			in := cryptogram.OptionBHashInput([]byte(v.PAN + v.PSN))
			if want := v.want("sha1_input"); hex.EncodeToString(in) != want {
				t.Errorf("%s: hash input differs", id)
			}
		}
		if !bytes.Equal(y[:], unhex(t, v.want("y"))) {
			t.Errorf("%s: Y differs", id)
		}
	}
	if count < 3 {
		t.Fatalf("%d diversifier vectors, want all", count)
	}
}

func TestSessionKeyVectors(t *testing.T) {
	count := 0
	for id, v := range loadVectors(t, "session_key.json") {
		in, ok := sessionKeyInput(t, v)
		if !ok {
			continue
		}
		count++
		mk := unhex(t, v.ICCMK)
		if len(mk) == 0 && v.PAN != "" {
			mk = naiveICCMasterKey(unhex(t, v.IMK), v.MKD, v.PAN, v.PSN)
		}
		if len(mk) == 0 {
			continue // a diversifier in place of a PAN: covered by the conformance run
		}
		key := naiveDerive(mk, in[:])
		if kcv := v.want("kcv"); kcv != "" && !hasCheckValue(key, kcv) {
			t.Errorf("%s: check value differs", id)
		}
		if value := v.want("session_key") + v.Own["session_key"]; value != "" && !sameKey(key, unhex(t, value)) {
			t.Errorf("%s: session key differs", id)
		}
	}
	if count < 15 {
		t.Fatalf("%d session key vectors, want all of these methods", count)
	}
}

func sessionKeyInput(t *testing.T, v vector) (in [16]byte, ok bool) {
	t.Helper()
	var atc [2]byte
	var un [4]byte
	copy(atc[:], unhex(t, v.ATC))
	copy(un[:], unhex(t, v.UN))
	switch v.SKD {
	case "csk":
		return cryptogram.SessionKeyInput(cryptogram.SessionKeyEMVCommon, atc, un)
	case "mc_skd":
		return cryptogram.SessionKeyInput(cryptogram.SessionKeyMastercard, atc, un)
	case "pboc":
		return cryptogram.SessionKeyInput(cryptogram.SessionKeyPBOC, atc, un)
	case "csk_r":
		return cryptogram.CommonSessionKeyInput([8]byte(unhex(t, v.R))), true
	case "csk_ac":
		r := binary.BigEndian.Uint64(unhex(t, v.AC)) + uint64(v.ScriptN)
		return cryptogram.CommonSessionKeyInput([8]byte(binary.BigEndian.AppendUint64(nil, r))), true
	}
	return in, false
}

func TestNoSessionKey(t *testing.T) {
	for _, m := range []cryptogram.SessionKeyMethod{0, cryptogram.SessionKeyNone, 5, 0xFF} {
		if in, derived := cryptogram.SessionKeyInput(m, [2]byte{1, 2}, [4]byte{3}); derived || in != [16]byte{} {
			t.Errorf("method %d: derived", m)
		}
	}
}

func TestDiversifierRefuses(t *testing.T) {
	for _, digits := range []string{"12345678901234a6", "1234 5678", "-1", "１２"} {
		if _, err := cryptogram.Diversifier(cryptogram.OptionA, digits, "00"); !errors.Is(err, cryptogram.ErrDigits) {
			t.Errorf("not digits: %v", err)
		}
	}
	if _, err := cryptogram.Diversifier(0, "123456789012", "00"); !errors.Is(err, cryptogram.ErrKeyOption) {
		t.Error("option 0: not refused")
	}
	if cryptogram.ICCMasterKeyInput(0, mustPAN(t, "123456789012"), mustPSN(t, "00")) != [16]byte{} {
		t.Error("option 0: makes an input")
	}
}

// TestDiversifierAgainstNaive compares both options with an implementation
// over strings, for PANs of all lengths and beyond.
func TestDiversifierAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pan := rapid.StringMatching(`[0-9]{1,24}`).Draw(t, "pan")
		psn := rapid.StringMatching(`[0-9]{2}`).Draw(t, "psn")
		for name, opt := range options() {
			y, err := cryptogram.Diversifier(opt, pan, psn)
			if err != nil || !bytes.Equal(y[:], naiveY(name, pan, psn)) {
				t.Fatalf("option %s, %d digits: differs, error %v", name, len(pan), err)
			}
			if len(pan) < cryptogram.MinPANDigits || len(pan) > cryptogram.MaxPANDigits {
				continue
			}
			p, err := cryptogram.ParsePAN(pan)
			if err != nil {
				t.Fatal(err)
			}
			s, err := cryptogram.ParsePSN(psn)
			if err != nil {
				t.Fatal(err)
			}
			if cryptogram.ICCMasterKeyInput(opt, p, s) != cryptogram.WithInverse(y) {
				t.Fatalf("option %s, %d digits: PAN and digits differ", name, len(pan))
			}
		}
	})
}

// TestDecimalise takes hashes with few decimal digits, which random PANs
// hardly ever make.
func TestDecimalise(t *testing.T) {
	tests := []struct{ hash, want string }{
		{strings.Repeat("AF", 20), "0505050505050505"},
		{strings.Repeat("1F", 20), "1111111111111111"},
		{"1" + strings.Repeat("F", 39), "1555555555555555"},
		{strings.Repeat("E", 39) + "9", "9444444444444444"},
		{strings.Repeat("0", 40), "0000000000000000"},
		{strings.Repeat("ABCDEF", 4) + "0123456789012345", "0123456789012345"},
		{"BCD" + strings.Repeat("A", 22) + "012345678901234", "0123456789012341"},
	}
	for _, tt := range tests {
		y := cryptogram.DecimaliseHash([20]byte(unhex(t, tt.hash)))
		if !bytes.Equal(y[:], unhex(t, tt.want)) {
			t.Errorf("hash %s: wrong digits", tt.hash)
		}
	}
}

func TestPaddingVectors(t *testing.T) {
	methods := map[string]cryptogram.Padding{
		"iso9797_m1": cryptogram.PaddingMethod1, "iso9797_m2": cryptogram.PaddingMethod2, "iso9797_m3": cryptogram.PaddingMethod3,
	}
	count := 0
	for id, v := range loadVectors(t, "cmac.json") {
		if v.Op != "pad" {
			continue
		}
		count++
		got, err := cryptogram.AppendPaddedBlocks(nil, unhex(t, v.Data), methods[v.Padding], v.BlockLen)
		if err != nil || !bytes.Equal(got, unhex(t, v.want("padded"))) {
			t.Errorf("%s: differs, error %v", id, err)
		}
	}
	if count < 5 {
		t.Fatalf("%d padding vectors, want all", count)
	}
}

func TestPadding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "data")
		prefix := []byte{1, 2, 3}
		one := cryptogram.AppendPadded(slices.Clone(prefix), data, cryptogram.PaddingMethod1)
		two := cryptogram.AppendPadded(slices.Clone(prefix), data, cryptogram.PaddingMethod2)
		if !bytes.Equal(one, append(slices.Clone(prefix), naivePad(data, "iso9797_m1")...)) {
			t.Fatal("method 1 differs")
		}
		if !bytes.Equal(two, append(slices.Clone(prefix), naivePad(data, "iso9797_m2")...)) {
			t.Fatal("method 2 differs")
		}
		// Method 2 can be undone, so two messages never pad to the same bytes.
		undone := bytes.TrimRight(two[3:], "\x00")
		if !bytes.Equal(undone[:len(undone)-1], data) {
			t.Fatal("method 2 cannot be undone")
		}
	})
	for _, p := range []cryptogram.Padding{0, cryptogram.PaddingMethod3, 4} {
		if got := cryptogram.AppendPadded(nil, []byte{1}, p); got != nil {
			t.Errorf("method %d: %d bytes", p, len(got))
		}
	}
	for _, blocks := range []int{-1, 0, 256} {
		if _, err := cryptogram.AppendPaddedBlocks(nil, nil, cryptogram.PaddingMethod1, blocks); !errors.Is(err, cryptogram.ErrPadding) {
			t.Errorf("blocks of %d bytes: %v", blocks, err)
		}
	}
	if _, err := cryptogram.AppendPaddedBlocks(nil, nil, 0, 8); !errors.Is(err, cryptogram.ErrPadding) {
		t.Errorf("method 0: %v", err)
	}
}
