package cryptogram_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
)

func iadOf(b []byte) cryptogram.IAD {
	var iad cryptogram.IAD
	iad.Len = uint8(copy(iad.Bytes[:], b))
	return iad
}

func TestIADVectors(t *testing.T) {
	for id, v := range loadVectors(t, "iad.json") {
		t.Run(id, func(t *testing.T) {
			info, err := cryptogram.ParseIAD(unhex(t, v.IAD))
			if err != nil {
				t.Fatal(err)
			}
			got := describe(info)
			for field, want := range v.Expected {
				if have, known := got[field]; !known || have != want {
					t.Errorf("%s: got %v, want %v", field, have, want)
				}
			}
		})
	}
}

// describe has the fields of the iad_parse operation.
func describe(i cryptogram.IADInfo) map[string]any {
	upper := func(b ...byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
	session := map[cryptogram.SessionKeyMethod]string{
		cryptogram.SessionKeyMastercard: "mastercard_skd", cryptogram.SessionKeyEMVCommon: "emv_csk",
	}
	return map[string]any{
		"application": i.Application.String(), "iad_format": float64(i.Format),
		"dki": upper(i.DKI), "cvn": upper(i.CVN), "cvr": upper(i.CVR...),
		"dac_icc_dn": upper(i.DAC...), "counters": upper(i.Counters...),
		"session_key": session[i.SessionKey], "counters_in_ac": i.CountersInAC,
		"cryptogram_algorithm": i.Cipher.String(),
	}
}

func TestSelectProfile(t *testing.T) {
	const (
		visa, mc, ccd = cryptogram.SchemeVisa, cryptogram.SchemeMastercard, cryptogram.SchemeCCD
		tail24        = "000000000000000000000000000000000000000000000000"
		tail15        = "000000000000000000000000000000"
	)
	tests := []struct {
		name   string
		scheme cryptogram.Scheme
		iad    string
		want   string // profile name, or the text of the error
		dki    byte
	}{
		{"visa format 0", visa, "06770A03A06010", "visa-cvn10", 0x77},
		{"visa format 0 with issuer data", visa, "06010A03A060100701020304050607", "visa-cvn10", 1},
		{"visa format 1", visa, "06FE1203A0B800", "visa-cvn18", 0xFE},
		{"visa format 2", visa, "1F22050102030405" + tail24, "visa-cvn22", 5},
		{"visa format 4", visa, "1F43FE82A0000000" + tail24, "tag 9F10: cryptogram version of the unsupported profile visa-cvn43", 0},
		{"visa version 17", visa, "06011103A0B800", "tag 9F10: cryptogram version of the unsupported profile visa-cvn17", 0},
		{"visa version 0B", visa, "06010B03A0B800", "tag 9F10: unknown cryptogram version", 0},
		{"visa format 3", visa, "06013303A0B800", "tag 9F10: unknown cryptogram version", 0},
		{"visa version 22 in the layout of format 1", visa, "06012203A0B800", "tag 9F10: cryptogram version does not fit the layout", 0},
		{"visa version 12 in the layout of format 2", visa, "1F12050102030405" + tail24, "tag 9F10: cryptogram version does not fit the layout", 0},
		{"visa version of format 5", visa, "06015203A0B800", "tag 9F10: cryptogram version does not fit the layout", 0},
		{"visa too short", visa, "06011203A0B8", "tag 9F10: not laid out as a Visa card's", 0},
		{"visa wrong CVR length", visa, "06011204A0B80000", "tag 9F10: not laid out as a Visa card's", 0},
		{"visa long form too short", visa, "1F22050102030405" + tail24[2:], "tag 9F10: not laid out as a Visa card's", 0},
		{"mastercard 16", mc, "0110A04003223000000000001126980002FF", "mastercard-cvn16", 1},
		{"mastercard 17", mc, "0211A04003223000000000001126980002FF", "mastercard-cvn17", 2},
		{"mastercard 20 of 20 bytes", mc, "0314A04003223000000000001126980002FF0001", "mastercard-cvn20", 3},
		{"mastercard 21 of 26 bytes", mc, "0415A04203A20000000000000000000000FF00000000000000FF", "mastercard-cvn21", 4},
		{"mastercard 21 of 28 bytes", mc, "0415A04203A20000000000000000000000FF00000000000000FF0001", "mastercard-cvn21", 4},
		{"mastercard of 19 bytes", mc, "0110A04003223000000000001126980002FF00", "tag 9F10: want 18, 20, 26 or 28 bytes for a Mastercard card", 0},
		{"mastercard version 12", mc, "0112A04003223000000000001126980002FF", "tag 9F10: unknown cryptogram version", 0},
		{"mastercard version 18", mc, "0118A04003223000000000001126980002FF", "tag 9F10: unknown cryptogram version", 0},
		{"mastercard version 20", mc, "0120A04003223000000000001126980002FF", "tag 9F10: unknown cryptogram version", 0},
		{"ccd", ccd, "0FA526A83100000000000001500000000F" + tail15, "emv-ccd", 0x26},
		{"ccd with AES", ccd, "0FA626A83100000000000001500000000F" + tail15, "tag 9F10: cryptogram version of the unsupported profile emv-ccd-aes", 0},
		{"ccd with another version", ccd, "0FA726A83100000000000001500000000F" + tail15, "tag 9F10: unknown cryptogram version", 0},
		{"ccd without the second length", ccd, "0FA526A83100000000000001500000000E" + tail15, "tag 9F10: not laid out as a CCD card's", 0},
		{"absent", visa, "", "tag 9F10: missing", 0},
		{"interac", cryptogram.SchemeInterac, "1501850440B1", cryptogram.ErrProfileNotInIAD.Error(), 0},
		{"pboc", cryptogram.SchemePBOC, "07010103A00000", cryptogram.ErrProfileNotInIAD.Error(), 0},
		{"scheme zero", 0, "06770A03A06010", cryptogram.ErrScheme.Error(), 0},
		{"scheme from nowhere", 6, "06770A03A06010", cryptogram.ErrScheme.Error(), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			iad := iadOf(unhex(t, tt.iad))
			p, dki, err := cryptogram.SelectProfile(tt.scheme, iad)
			var got string
			if err != nil {
				got = err.Error()
			} else {
				got = p.Name
			}
			if got != tt.want || dki != tt.dki {
				t.Fatalf("got %s, want %s", got, tt.want)
			}
			if index, ok := cryptogram.IADKeyIndex(tt.scheme, iad); err == nil && (!ok || index != dki) {
				t.Fatal("key index differs from the one of the selection")
			}
		})
	}
}

func TestIADKeyIndexOfNoLayout(t *testing.T) {
	iad := iadOf([]byte{0x06, 0x01, 0x12, 0x03, 0, 0, 0})
	for _, s := range []cryptogram.Scheme{0, cryptogram.SchemeInterac, cryptogram.SchemePBOC, cryptogram.SchemeMastercard, 99} {
		if _, ok := cryptogram.IADKeyIndex(s, iad); ok {
			t.Errorf("%s: has a key index", s)
		}
	}
	iad.Len = 33
	if _, ok := cryptogram.IADKeyIndex(cryptogram.SchemeVisa, iad); ok {
		t.Error("impossible length: has a key index")
	}
	if _, _, err := cryptogram.SelectProfile(cryptogram.SchemeVisa, iad); err == nil {
		t.Error("impossible length: has a profile")
	}
}

// buildIAD is the inverse of ParseIAD.
func buildIAD(i cryptogram.IADInfo) []byte {
	var b []byte
	switch {
	case i.Application == cryptogram.IADCCD:
		b = append(b, 0x0F, i.CVN, i.DKI)
	case i.Application != cryptogram.IADVSDC:
		b = append(b, i.DKI, i.CVN)
	case i.Format == 2 || i.Format == 4:
		b = append(b, 0x1F, i.CVN, i.DKI)
	default:
		b = append(b, 0x06, i.DKI, i.CVN)
	}
	for _, part := range [][]byte{i.CVR, i.DAC, i.Counters, i.LastATC, i.Issuer} {
		b = append(b, part...)
	}
	return b
}

func FuzzParseIAD(f *testing.F) {
	for _, v := range loadVectors(f, "iad.json") {
		f.Add(unhex(f, v.IAD))
	}
	f.Add(unhex(f, "06011203A0B800"))
	f.Add(unhex(f, "0415A04203A20000000000000000000000FF00000000000000FF0001"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := cryptogram.ParseIAD(b)
		if err != nil {
			if !errors.Is(err, cryptogram.ErrIADUnknown) || err.Error() != cryptogram.ErrIADUnknown.Error() {
				t.Fatal("an error of its own could carry a value")
			}
			return
		}
		if len(b) > 32 {
			t.Fatal("accepted more than 32 bytes")
		}
		if !bytes.Equal(buildIAD(info), b) {
			t.Fatal("parsing and building is not the identity")
		}
		for _, s := range []cryptogram.Scheme{cryptogram.SchemeVisa, cryptogram.SchemeMastercard, cryptogram.SchemeCCD} {
			p, dki, err := cryptogram.SelectProfile(s, iadOf(b))
			if err != nil {
				continue
			}
			if index, ok := cryptogram.IADKeyIndex(s, iadOf(b)); !ok || index != dki || p.Scheme != s {
				t.Fatal("selection and key index contradict each other")
			}
		}
	})
}
