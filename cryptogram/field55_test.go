package cryptogram_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
)

// mistakes are all texts that ParseField55 may return. A text that fits none
// could carry a value.
var mistakes = regexp.MustCompile(`^(field 55: (empty|more than 1024 bytes)|` +
	`(tag [0-9A-F]{2}([0-9A-F]{2})?|field 55: object at byte \d{1,4}): (` + strings.Join([]string{
	`filler byte between data objects`,
	`constructed data object, want a flat list`,
	`tag is cut short`,
	`tag has more than two bytes`,
	`tag number zero in two bytes`,
	`length is missing`,
	`length is cut short`,
	`length field is too long`,
	`length is not in its shortest form`,
	`indefinite length`,
	`value is cut short`,
	`duplicate`,
	`want (1 byte|\d+ bytes|1 to \d+ bytes), got \d+`,
	`not two decimal digits`,
	`not decimal digits filled up with F`,
	`no separator after the PAN`,
	`PAN must have 12 to 19 digits`,
}, "|") + `))$`)

func TestParseField55Malformed(t *testing.T) {
	long := make([]byte, 1025)
	tests := []struct {
		name string
		hex  string
		want string
	}{
		{"empty", "", "field 55: empty"},
		{"two-byte tag cut", "9F", "field 55: object at byte 0: tag is cut short"},
		{"tag only", "9F36", "tag 9F36: length is missing"},
		{"no value", "9F3602", "tag 9F36: value is cut short"},
		{"value cut", "9F360200", "tag 9F36: value is cut short"},
		{"short value", "9F360100", "tag 9F36: want 2 bytes, got 1"},
		{"long value", "9F3603000000", "tag 9F36: want 2 bytes, got 3"},
		{"indefinite length", "9F3680000000", "tag 9F36: indefinite length"},
		{"length in two bytes for nothing", "9F3681020001", "tag 9F36: length is not in its shortest form"},
		{"length in three bytes for nothing", "9F368200020001", "tag 9F36: length is not in its shortest form"},
		{"length in three bytes, value of 255", "9F368200FF", "tag 9F36: length is not in its shortest form"},
		{"length in four bytes", "9F36830000020001", "tag 9F36: length field is too long"},
		{"reserved length", "9F36FF", "tag 9F36: length field is too long"},
		{"length cut after 81", "9F3681", "tag 9F36: length is cut short"},
		{"length cut after 82", "9F368201", "tag 9F36: length is cut short"},
		{"length beyond the field", "9F3682FFFF", "tag 9F36: value is cut short"},
		{"duplicate", "9F360200019F36020001", "tag 9F36: duplicate"},
		{"duplicate of a tag that is skipped", "9F3303E0F8C89F3303E0F8C8", "tag 9F33: duplicate"},
		{"duplicate of an unknown tag", "C10101C10101", "field 55: object at byte 3: duplicate"},
		{"duplicate of an unknown two-byte tag", "DF010101DF010101", "field 55: object at byte 4: duplicate"},
		{"zero in front", "009F36020001", "field 55: object at byte 0: filler byte between data objects"},
		{"zero between", "9F36020001009C0100", "field 55: object at byte 5: filler byte between data objects"},
		{"zero at the end", "9F3602000100", "field 55: object at byte 5: filler byte between data objects"},
		{"FF at the end", "9F36020001FF", "field 55: object at byte 5: filler byte between data objects"},
		{"template", "70059F36020001", "field 55: object at byte 0: constructed data object, want a flat list"},
		{"two-byte template", "BF0C059F36020001", "field 55: object at byte 0: constructed data object, want a flat list"},
		{"three-byte tag", "9F818101", "field 55: object at byte 0: tag has more than two bytes"},
		{"tag number zero", "9F0001AA", "field 55: object at byte 0: tag number zero in two bytes"},
		{"unknown tag cut", "DF0105AA", "field 55: object at byte 0: value is cut short"},
		{"5A not digits", "5A0812345678901234A6", "tag 5A: not decimal digits filled up with F"},
		{"length of 127 in two bytes", "9F33817F" + strings.Repeat("00", 127), "tag 9F33: length is not in its shortest form"},
		{"5A with a letter at the end", "5A08123456789012345A", "tag 5A: not decimal digits filled up with F"},
		{"57 with a letter for the separator", "57081234567890123A45", "tag 57: no separator after the PAN"},
		{"5F34 not digits", "5F34011A", "tag 5F34: not two decimal digits"},
		{"9F27 of two bytes", "9F27028000", "tag 9F27: want 1 byte, got 2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := cryptogram.ParseField55(unhex(t, tt.hex))
			if err == nil || err.Error() != tt.want {
				t.Fatalf("got %v, want %s", err, tt.want)
			}
			if !mistakes.MatchString(err.Error()) {
				t.Fatal("the text is not one of the known ones")
			}
		})
	}
	if _, err := cryptogram.ParseField55(long); !errors.Is(err, cryptogram.ErrField55Length) {
		t.Fatalf("1025 bytes: %v", err)
	}
}

// TestParseField55Limits: 1,024 bytes are allowed, in all three length forms,
// and well-formed objects of no interest are skipped.
func TestParseField55Limits(t *testing.T) {
	tp := sound(t)[0]
	b := field55(tp.objects)
	b = appendTLV(b, 0x9F33, []byte{0xE0, 0xF8, 0xC8})
	b = appendTLV(b, 0xC0, nil)
	b = appendTLV(b, 0xDF7F, make([]byte, 0x80))
	b = appendTLV(b, 0x9F7C, make([]byte, 0xFF))
	b = appendTLV(b, 0xDF01, make([]byte, 1024-len(b)-5))
	if len(b) != 1024 {
		t.Fatalf("the test made %d bytes", len(b))
	}
	if _, err := tp.requestFrom(b); err != nil {
		t.Fatalf("1024 bytes: %v", err)
	}
}

// TestTagsThatLookAlike: tags that differ only in class or only in length are
// different tags, not duplicates.
func TestTagsThatLookAlike(t *testing.T) {
	alike := unhex(t, "1F360101"+"5F360101"+"9F36020001"+"DF360101"+"810101"+"410101"+"C10101")
	if _, err := cryptogram.ParseField55(alike); err != nil {
		t.Fatal(err)
	}
}

// TestSeparateValues: the same data as values make the same request.
func TestSeparateValues(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		want, err := tp.request()
		if err != nil {
			t.Fatal(err)
		}
		want.Response = cryptogram.Response{}
		var card cryptogram.CardData
		for _, o := range tp.objects {
			if card.Has(o.tag) {
				t.Fatalf("tag %s is there before it is set", o.tag)
			}
			if err := card.Set(o.tag, o.value); err != nil {
				t.Fatal(err)
			}
			if !card.Has(o.tag) {
				t.Fatalf("tag %s is not there", o.tag)
			}
			wantTagError(t, card.Set(o.tag, o.value), o.tag)
		}
		if tp.cvr != nil {
			if err := card.SetCVR(tp.cvr); err != nil {
				t.Fatal(err)
			}
		}
		var got cryptogram.Request
		err = cryptogram.NewRequest(&card, mustPAN(t, tp.pan), mustPSN(t, tp.psn), true, tp.profile, tp.option, &got)
		if err != nil || got != want {
			t.Fatalf("another request than from field 55, error %v", err)
		}
	})
}

func TestSetRefusesWhatNobodyReads(t *testing.T) {
	var card cryptogram.CardData
	for _, tag := range []cryptogram.Tag{0, 0x84, 0x9F33, 0xFFFF} {
		wantTagError(t, card.Set(tag, []byte{1}), tag)
		if card.Has(tag) {
			t.Errorf("tag %s: present", tag)
		}
	}
}

func TestCVRRules(t *testing.T) {
	var card cryptogram.CardData
	for _, n := range []int{0, 7, 100} {
		if card.SetCVR(make([]byte, n)) == nil {
			t.Errorf("CVR of %d bytes: accepted", n)
		}
	}
	if err := card.SetCVR(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if card.SetCVR(make([]byte, 4)) == nil {
		t.Error("second CVR: accepted")
	}
	for _, tp := range sound(t) {
		other := tp
		if tp.cvr == nil {
			other.cvr = []byte{3, 0, 0, 0} // would contradict the card's own
		} else {
			other.cvr = tp.cvr[:3]
			if _, err := other.request(); err == nil {
				t.Errorf("%s: CVR of 3 bytes accepted", tp.name)
			}
			other.cvr = nil
		}
		if _, err := other.request(); err == nil || !strings.HasPrefix(err.Error(), "card verification results: ") {
			t.Errorf("%s: CVR that does not belong or is missing: %v", tp.name, err)
		}
	}
}

func TestCID(t *testing.T) {
	card, err := cryptogram.ParseField55(unhex(t, "9F270180"))
	if cid, ok := card.CID(); err != nil || !ok || cid != 0x80 {
		t.Fatalf("9F27: %v", err)
	}
	if _, ok := new(cryptogram.CardData).CID(); ok {
		t.Fatal("9F27 is there without having been sent")
	}
}

// drawObjects draws well-formed objects with different tags.
func drawObjects(t *rapid.T) []tlv {
	tag := rapid.Custom(func(t *rapid.T) cryptogram.Tag {
		first := rapid.Byte().Filter(func(b byte) bool { return b != 0 && b&0x20 == 0 }).Draw(t, "first")
		if first&0x1F != 0x1F {
			return cryptogram.Tag(first)
		}
		return cryptogram.Tag(first)<<8 | cryptogram.Tag(rapid.IntRange(1, 0x7F).Draw(t, "second"))
	})
	var objects []tlv
	for _, tag := range rapid.SliceOfNDistinct(tag, 1, 40, rapid.ID).Draw(t, "tags") {
		n := rapid.OneOf(rapid.IntRange(0, 20), rapid.SampledFrom([]int{127, 128, 255, 256, 300})).Draw(t, "length")
		objects = append(objects, tlv{tag, rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "value")})
	}
	return objects
}

func TestObjectsSurviveEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawObjects(t)
		got, err := cryptogram.Objects(field55(want))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Fatalf("%d objects, want %d", len(got), len(want))
		}
		for i := range got {
			if got[i].Tag != want[i].tag || !bytes.Equal(got[i].Value, want[i].value) {
				t.Fatalf("object %d differs", i)
			}
		}
	})
}

// TestOrderDoesNotMatter: the cryptogram input has its own order.
func TestOrderDoesNotMatter(t *testing.T) {
	taps := sound(t)
	rapid.Check(t, func(t *rapid.T) {
		tp := rapid.SampledFrom(taps).Draw(t, "tap")
		want, err := tp.request()
		if err != nil {
			t.Fatal(err)
		}
		objects := append(slices.Clone(tp.objects), tlv{0x9F33, []byte{1, 2, 3}})
		got, err := tp.requestFrom(field55(rapid.Permutation(objects).Draw(t, "order")))
		if err != nil || got != want {
			t.Fatalf("another request after reordering, error %v", err)
		}
	})
}

func FuzzParseField55(f *testing.F) {
	for _, tp := range sound(f) {
		f.Add(field55(tp.objects))
	}
	f.Add([]byte{})
	f.Add([]byte{0x9F, 0x36, 0x80})
	f.Add([]byte{0x5A, 0x08, 0x12, 0x34, 0x56, 0x78, 0x90, 0x12, 0x34, 0x56, 0x57, 0x82})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		card, err := cryptogram.ParseField55(b)
		if !bytes.Equal(b, before) {
			t.Fatal("the input was written to")
		}
		if err != nil {
			if !mistakes.MatchString(err.Error()) {
				t.Fatal("the error's text is not one of the known ones")
			}
			return
		}
		objects, err := cryptogram.Objects(b)
		if err != nil {
			t.Fatalf("accepted, but does not split: %v", err)
		}
		var again []byte
		seen := map[cryptogram.Tag]bool{}
		for _, o := range objects {
			if seen[o.Tag] {
				t.Fatal("a duplicate was accepted")
			}
			seen[o.Tag] = true
			again = appendTLV(again, o.Tag, o.Value)
		}
		if !bytes.Equal(again, b) {
			t.Fatal("accepted an encoding that is not the only one of its data")
		}
		requestNeverPanics(t, &card)
	})
}

// requestNeverPanics takes parsed data through all profiles. What becomes a
// request must become a plan, and errors must name no digits.
func requestNeverPanics(t *testing.T, card *cryptogram.CardData) {
	t.Helper()
	pan := mustPAN(t, "541333900000616")
	for _, p := range cryptogram.Profiles() {
		var r cryptogram.Request
		if err := cryptogram.NewRequest(card, pan, cryptogram.PSN{}, false, &p, p.Options[0], &r); err != nil {
			if strings.Contains(err.Error(), "5413") {
				t.Fatal("an error carries the PAN")
			}
			continue
		}
		var plan cryptogram.Plan
		if err := cryptogram.BuildPlan(&r, &plan); err != nil {
			t.Fatalf("profile %s: a request does not build: %v", p.Name, err)
		}
		if err := cryptogram.Validate(&plan, false); err != nil {
			t.Fatalf("profile %s: %v", p.Name, err)
		}
	}
}

func TestTagText(t *testing.T) {
	got := []string{cryptogram.TagTVR.String(), cryptogram.TagATC.String(), cryptogram.Tag(5).String()}
	if diff := cmp.Diff([]string{"95", "9F36", "05"}, got); diff != "" {
		t.Fatal(diff)
	}
	err := fmt.Errorf("parsing field 55: %w", cryptogram.TagError{Tag: cryptogram.TagATC, Problem: "missing"})
	if te, ok := errors.AsType[cryptogram.TagError](err); !ok || te.Error() != "tag 9F36: missing" {
		t.Fatal("a TagError is not found in a chain")
	}
}

func TestOnlyAnAuthorisationRequestGetsAResponse(t *testing.T) {
	for cid := range 256 {
		var c cryptogram.CardData
		if err := c.CheckAsksForResponse(); err != nil {
			t.Fatalf("data without 9F27: %v", err)
		}
		if err := c.Set(cryptogram.TagCID, []byte{byte(cid)}); err != nil {
			t.Fatal(err)
		}
		err := c.CheckAsksForResponse()
		if asks := cid>>6 == 2; (err == nil) != asks {
			t.Errorf("9F27 %02X: %v", cid, err)
		}
	}
}
