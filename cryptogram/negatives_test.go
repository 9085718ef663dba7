package cryptogram_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
)

// sound are the taps whose every element may be tampered with: those of a
// foreign IAD are refused before they come that far.
func sound(t testing.TB) []tap {
	t.Helper()
	return slices.DeleteFunc(allTaps(t), func(tp tap) bool { return tp.foreignIAD })
}

// eachTap runs f as a subtest for each sound tap, after making sure that the
// untouched tap matches: otherwise a mismatch below would prove nothing.
func eachTap(t *testing.T, f func(t *testing.T, tp tap)) {
	t.Helper()
	for _, tp := range sound(t) {
		t.Run(tp.name, func(t *testing.T) {
			mac, arpc, err := tp.status(t)
			if err != nil || mac != cryptogram.Matched || arpc != cryptogram.Produced {
				t.Fatalf("untouched tap: statuses %d and %d, error %v", mac, arpc, err)
			}
			f(t, tp)
		})
	}
}

// wantMismatch wants a comparison that fails and no ARPC.
func wantMismatch(t *testing.T, tp tap, what string) {
	t.Helper()
	mac, arpc, err := tp.status(t)
	if err != nil {
		t.Fatalf("%s: refused instead of compared: %v", what, err)
	}
	if mac != cryptogram.Mismatched || arpc != cryptogram.NotRun {
		t.Fatalf("%s: statuses %d and %d, want a mismatch and no ARPC", what, mac, arpc)
	}
}

func flip(b []byte, bit int) []byte {
	out := bytes.Clone(b)
	out[bit/8] ^= 0x80 >> (bit % 8)
	return out
}

func TestEveryBitOfTheCryptogram(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		ac := tp.element(0x9F26)
		for bit := range 64 {
			wantMismatch(t, tp.with(0x9F26, flip(ac, bit)), "cryptogram bit flipped")
		}
	})
}

// authenticatedIAD is the part of tag 9F10 that goes into the cryptogram.
func authenticatedIAD(tp *tap) (from, to int) {
	n := len(tp.element(0x9F10))
	switch {
	case tp.profile.Append == cryptogram.AppendIAD:
		return 0, n
	case tp.profile.Scheme == cryptogram.SchemeVisa:
		return 3, 7
	case tp.profile.Append == cryptogram.AppendCVRCounters:
		return 2, n // the data authentication code in between is not covered
	}
	return 2, 8
}

func TestEveryBitOfEveryElement(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		for _, el := range commonElements {
			value := tp.element(el.tag)
			for bit := range 8 * len(value) {
				wantMismatch(t, tp.with(el.tag, flip(value, bit)), "tag "+el.tag.String()+" bit flipped")
			}
		}
		for bit := range 8 * len(tp.cvr) {
			other := tp
			other.cvr = flip(tp.cvr, bit)
			wantMismatch(t, other, "CVR bit flipped")
		}
	})
}

// TestEveryBitOfTheIAD also pins down what is *not* authenticated: the key
// index and version select key and profile, the rest is the card's own.
func TestEveryBitOfTheIAD(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		iad := tp.element(0x9F10)
		from, to := authenticatedIAD(&tp)
		counters := tp.profile.Append == cryptogram.AppendCVRCounters
		for bit := range 8 * len(iad) {
			other := tp.with(0x9F10, flip(iad, bit))
			mac, arpc, err := other.status(t)
			at := bit / 8
			covered := at >= from && at < to && (!counters || at < 8 || at >= 10)
			switch {
			case covered && (mac == cryptogram.Matched || arpc != cryptogram.NotRun):
				t.Fatalf("bit %d of an authenticated part flipped: statuses %d and %d", bit, mac, arpc)
			case !covered && err == nil && mac != cryptogram.Matched:
				t.Fatalf("bit %d of a part that is not authenticated flipped: status %d", bit, mac)
			}
		}
	})
}

func TestCounterBesideTheRightOne(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		atc := tp.element(0x9F36)
		value := uint16(atc[0])<<8 | uint16(atc[1])
		for _, other := range []uint16{value - 1, value + 1, 0, 0xFFFF} {
			wantMismatch(t, tp.with(0x9F36, []byte{byte(other >> 8), byte(other)}), "another counter")
		}
	})
}

func TestAnotherCard(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		// Option A keeps the rightmost 16 digits of PAN and sequence number.
		for i := max(0, len(tp.pan)-14); i < len(tp.pan); i++ {
			other := tp
			pan := []byte(tp.pan)
			pan[i] = '0' + (pan[i]-'0'+1)%10
			other.pan = string(pan)
			wantMismatch(t, other, "another PAN")
		}
		for _, psn := range []string{"00", "01", "10", "23", "99"} {
			if psn != tp.psn {
				other := tp
				other.psn = psn
				wantMismatch(t, other, "another sequence number")
			}
		}
		other := tp
		other.imk[3] ^= 0x10
		wantMismatch(t, other, "another issuer key")
	})
}

// TestOmittedSequenceNumber: a card with a sequence number is not the card
// with 00, and tag 5F34 is enough to say so.
func TestOmittedSequenceNumber(t *testing.T) {
	tried := 0
	eachTap(t, func(t *testing.T, tp tap) {
		if tp.psn == "00" {
			return
		}
		tried++
		other := tp
		other.psn = ""
		wantMismatch(t, other, "sequence number omitted")
		psn := mustPSN(t, tp.psn)
		other.objects = append(slices.Clone(tp.objects), tlv{0x5F34, []byte{psn.BCD()}})
		if mac, _, err := other.status(t); err != nil || mac != cryptogram.Matched {
			t.Fatalf("sequence number from tag 5F34: status %d, error %v", mac, err)
		}
	})
	if tried < 2 {
		t.Fatalf("%d vectors with a sequence number other than 00, want two", tried)
	}
}

func TestSequenceNumberRules(t *testing.T) {
	tp := sound(t)[0]
	withTag := func(bcd byte) []byte {
		return field55(append(slices.Clone(tp.objects), tlv{0x5F34, []byte{bcd}}))
	}
	tests := []struct {
		name    string
		field   []byte
		psn     string
		want    byte
		wantErr bool
	}{
		{"neither", field55(tp.objects), "", 0x00, false},
		{"request only", field55(tp.objects), "47", 0x47, false},
		{"tag only", withTag(0x47), "", 0x47, false},
		{"both equal", withTag(0x47), "47", 0x47, false},
		{"both differ", withTag(0x47), "46", 0, true},
		{"tag against an explicit 00", withTag(0x47), "00", 0, true},
		{"tag 00 against a request", withTag(0x00), "01", 0, true},
		{"tag not decimal", withTag(0x0A), "", 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tp := tp
			tp.psn = tt.psn
			r, err := tp.requestFrom(tt.field)
			if tt.wantErr {
				wantTagError(t, err, cryptogram.TagPSN)
				return
			}
			if err != nil || r.PSN.BCD() != tt.want {
				t.Fatalf("wrong sequence number or error %v", err)
			}
		})
	}
}

// TestWrongVersion: a profile is never applied to a card that says it has
// another one, and the versions of a scheme do not verify each other's.
func TestWrongVersion(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		for _, p := range cryptogram.Profiles() {
			if p.ID == tp.profile.ID {
				continue
			}
			other := tp
			other.profile, _ = cryptogram.LookupProfile(p.ID)
			other.option = cryptogram.OptionA
			other.response = cryptogram.Response{}
			if !other.profile.NeedsIAD() {
				continue
			}
			mac, _, err := other.status(t)
			if mac == cryptogram.Matched {
				t.Fatalf("accepted as %s", p.Name)
			}
			if other.profile.SelectedBy == cryptogram.SelectedByCVN {
				if _, ok := errors.AsType[cryptogram.TagError](err); tp.cvr == nil && !ok {
					t.Fatalf("as %s: want a TagError, got %v", p.Name, err)
				}
			}
		}
	})
}

// TestVersionByteChanged: the version byte of Mastercard cards is not
// authenticated, so changing it must lead to another computation.
func TestVersionByteChanged(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		if tp.profile.Scheme != cryptogram.SchemeMastercard {
			return
		}
		for _, cvn := range []byte{0x10, 0x11, 0x14, 0x15} {
			if cvn == tp.profile.CVN {
				continue
			}
			iad := bytes.Clone(tp.element(0x9F10))
			iad[1] = cvn
			other := tp.with(0x9F10, iad)
			var err error
			var value cryptogram.IAD
			value.Len = uint8(copy(value.Bytes[:], iad))
			if other.profile, _, err = cryptogram.SelectProfile(cryptogram.SchemeMastercard, value); err != nil {
				t.Fatal(err)
			}
			wantMismatch(t, other, "version byte changed")
		}
	})
}

func TestPaddingSwapped(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		r, err := tp.request()
		if err != nil {
			t.Fatal(err)
		}
		row := *tp.profile
		row.Padding = cryptogram.PaddingMethod1 + cryptogram.PaddingMethod2 - row.Padding
		var p cryptogram.Plan
		cryptogram.BuildUnchecked(&r, &row, &p)
		if mac, arpc := run(t, tp.imk, &p); mac != cryptogram.Mismatched || arpc != cryptogram.NotRun {
			t.Fatalf("padding method swapped: statuses %d and %d", mac, arpc)
		}
	})
}

func TestWrongOption(t *testing.T) {
	tried := 0
	eachTap(t, func(t *testing.T, tp tap) {
		other := tp
		other.option = cryptogram.OptionA + cryptogram.OptionB - tp.option
		mac, _, err := other.status(t)
		switch {
		case !tp.profile.Allows(other.option):
			if !errors.Is(err, cryptogram.ErrKeyOption) {
				t.Fatalf("option that the profile does not allow: %v", err)
			}
		case len(tp.pan) <= 16:
			if mac != cryptogram.Matched {
				t.Fatalf("up to 16 digits both options make one key: status %d", mac)
			}
		default:
			tried++
			if mac != cryptogram.Mismatched {
				t.Fatalf("wrong option: status %d", mac)
			}
		}
		for _, opt := range []cryptogram.KeyOption{0, 3, 0xFF} {
			other.option = opt
			if _, err := other.request(); !errors.Is(err, cryptogram.ErrKeyOption) {
				t.Fatalf("option %d: %v", opt, err)
			}
		}
	})
	if tried == 0 {
		t.Fatal("no vector tells options A and B apart")
	}
}

// TestTruncations cuts field 55 at every byte, removes every byte, and puts
// bytes in at every place: nothing of it is ever accepted.
func TestTruncations(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		whole := field55(tp.objects)
		for n := range whole {
			if _, err := tp.requestFrom(whole[:n]); err == nil {
				t.Fatalf("accepted %d of %d bytes", n, len(whole))
			}
			wantNoMatch(t, &tp, slices.Delete(bytes.Clone(whole), n, n+1))
		}
		for at := range len(whole) + 1 {
			for _, extra := range []byte{0x00, 0x01, 0x5F, 0x80, 0x9F, 0xFF} {
				wantNoMatch(t, &tp, slices.Insert(bytes.Clone(whole), at, extra))
			}
		}
		for extra := range 256 {
			if _, err := tp.requestFrom(append(bytes.Clone(whole), byte(extra))); err == nil {
				t.Fatal("accepted with one byte after the end")
			}
		}
	})
}

func wantNoMatch(t *testing.T, tp *tap, f55 []byte) {
	t.Helper()
	r, err := tp.requestFrom(f55)
	if err != nil {
		return
	}
	var p cryptogram.Plan
	if err := cryptogram.BuildPlan(&r, &p); err != nil {
		t.Fatalf("a request that NewRequest made does not build: %v", err)
	}
	if mac, arpc := run(t, tp.imk, &p); mac != cryptogram.Mismatched || arpc != cryptogram.NotRun {
		t.Fatalf("tampered field 55: statuses %d and %d", mac, arpc)
	}
}

// TestLengthOfEveryElement: one byte more or less, with the length to match.
func TestLengthOfEveryElement(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		for _, o := range tp.objects {
			if o.tag == cryptogram.TagIAD {
				continue
			}
			for _, value := range [][]byte{o.value[:len(o.value)-1], append(bytes.Clone(o.value), 0), {}} {
				other := tp.with(o.tag, value)
				_, err := other.request()
				wantTagError(t, err, o.tag)
			}
		}
		for _, value := range [][]byte{{}, make([]byte, 33), make([]byte, 200)} {
			other := tp
			other.objects = append(slices.Clone(tp.objects), tlv{0x9F10, value})
			if tp.cvr == nil {
				other = tp.with(0x9F10, value)
			}
			_, err := other.request()
			wantTagError(t, err, cryptogram.TagIAD)
		}
	})
}

func TestMissingAndDuplicateElements(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		for i, o := range tp.objects {
			other := tp
			if other.objects = slices.Delete(slices.Clone(tp.objects), i, i+1); o.tag != cryptogram.TagIAD || tp.profile.NeedsIAD() {
				_, err := other.request()
				wantTagError(t, err, o.tag)
			}
			other.objects = append(slices.Clone(tp.objects), o)
			_, err := other.request()
			wantTagError(t, err, o.tag)
		}
	})
}

func TestPANAgreement(t *testing.T) {
	tp := sound(t)[0] // 16 digits
	pan := unhex(t, tp.pan)
	track := func(tail string) []byte { return append(bytes.Clone(pan), unhex(t, tail)...) }
	other := flip(pan, 63)
	tests := []struct {
		name  string
		extra tlv
		ok    bool
	}{
		{"5A equal", tlv{0x5A, pan}, true},
		{"5A equal, filled up", tlv{0x5A, append(bytes.Clone(pan), 0xFF)}, true},
		{"5A other", tlv{0x5A, other}, false},
		{"5A shorter", tlv{0x5A, append(bytes.Clone(pan[:7]), 0x1F)}, false},
		{"5A longer", tlv{0x5A, append(bytes.Clone(pan), 0x1F)}, false},
		{"5A empty", tlv{0x5A, nil}, false},
		{"5A digit after the filler", tlv{0x5A, append(bytes.Clone(pan), 0xF1)}, false},
		{"5A with a letter", tlv{0x5A, append(bytes.Clone(pan[:7]), 0x5A)}, false},
		{"5A too short for a PAN", tlv{0x5A, pan[:5]}, false},
		{"5A too long for a PAN", tlv{0x5A, append(bytes.Clone(pan), 0x12, 0x34)}, false},
		{"5A of eleven bytes", tlv{0x5A, append(bytes.Clone(pan), 0xFF, 0xFF, 0xFF)}, false},
		{"57 equal", tlv{0x57, track("D31122011234567890FF")}, true},
		{"57 other", tlv{0x57, append(bytes.Clone(other), 0xD3, 0x11, 0x22)}, false},
		{"57 without separator", tlv{0x57, pan}, false},
		{"57 with another separator", tlv{0x57, track("E311220112")}, false},
		{"57 empty", tlv{0x57, nil}, false},
		{"57 of twenty bytes", tlv{0x57, track("D31122011234567890FFFFFF")}, false},
		{"57 of another length", tlv{0x57, track("1D311220112F")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tp := tp
			tp.objects = append(slices.Clone(tp.objects), tt.extra)
			_, err := tp.request()
			if tt.ok != (err == nil) {
				t.Fatalf("error %v", err)
			}
			if !tt.ok {
				wantTagError(t, err, tt.extra.tag)
			}
		})
	}
}

func wantTagError(t *testing.T, err error, tag cryptogram.Tag) {
	t.Helper()
	te, ok := errors.AsType[cryptogram.TagError](err)
	if !ok || te.Tag != tag || te.Problem == "" {
		t.Fatalf("want an error for tag %s, got %v", tag, err)
	}
}
