package software_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

type vector struct {
	ID       string         `json:"id"`
	Op       string         `json:"op"`
	Cipher   string         `json:"cipher"`
	Key      string         `json:"key"`
	Data     string         `json:"data"`
	Padding  string         `json:"padding"`
	Method   string         `json:"method"`
	Expected map[string]any `json:"expected"`
}

func load(t *testing.T, file string) []vector {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "testdata", "vectors", file))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Vectors []vector `json:"vectors"`
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f.Vectors
}

func unhex(t *testing.T, s any) []byte {
	t.Helper()
	text, _ := s.(string)
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCheckValueVectors(t *testing.T) {
	count := 0
	for _, v := range load(t, "kcv.json") {
		key := unhex(t, v.Key)
		if v.Op != "kcv" || v.Method != "tdes_zero" || len(key) < 16 {
			continue
		}
		count++
		cv := software.CheckValue(key)
		want, _ := v.Expected["kcv"].(string)
		if !strings.HasPrefix(strings.ToUpper(hex.EncodeToString(cv[:])), want) {
			t.Errorf("%s: check value differs", v.ID)
		}
	}
	if count < 5 {
		t.Fatalf("%d check value vectors", count)
	}
	for _, n := range []int{0, 8, 15, 17, 32} {
		if software.CheckValue(make([]byte, n)) != [3]byte{} {
			t.Errorf("key of %d bytes: has a check value", n)
		}
	}
}

// TestRetailMACVectors runs published MAC algorithm 3 values through scratch
// plans: those that compute under the root key itself.
func TestRetailMACVectors(t *testing.T) {
	paddings := map[string]cryptogram.Padding{
		"iso9797_m1": cryptogram.PaddingMethod1, "iso9797_m2": cryptogram.PaddingMethod2, "iso9797_m3": cryptogram.PaddingMethod3,
	}
	count := 0
	for _, v := range load(t, "cmac.json") {
		key := unhex(t, v.Key)
		if v.Op != "mac_alg3" || len(key) != 16 || v.Cipher == "AES" || v.Cipher == "SM4" {
			continue
		}
		padded := unhex(t, v.Data)
		if v.Padding != "none" {
			var err error
			if padded, err = cryptogram.AppendPaddedBlocks(nil, padded, paddings[v.Padding], 8); err != nil {
				t.Fatalf("%s: %v", v.ID, err)
			}
		}
		count++
		want := unhex(t, v.Expected["mac"])
		p := scratchMAC(padded)
		p.Steps[0].ProduceBytes = uint8(len(want))
		var o cryptogram.Outcome
		if err := software.Execute([16]byte(key), &p, &o); err != nil {
			t.Fatalf("%s: %v", v.ID, err)
		}
		if !bytes.Equal(o.Steps[0].Bytes[:len(want)], want) {
			t.Errorf("%s: MAC differs", v.ID)
		}
	}
	if count < 3 {
		t.Fatalf("%d MAC vectors", count)
	}
}

func scratchMAC(padded []byte) (p cryptogram.Plan) {
	p.NumSteps = 1
	p.Steps[0].Op = cryptogram.RetailMAC
	p.Steps[0].DataBytes = uint16(copy(p.Steps[0].Data[:], padded))
	return p
}

// TestComparisonLength: the comparison covers exactly CompareBytes, and what
// follows it runs only after a match.
func TestComparisonLength(t *testing.T) {
	key := [16]byte{7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9}
	p := scratchMAC(bytes.Repeat([]byte("tapseal!"), 3))
	p.Steps[0].ProduceBytes = 8
	var o cryptogram.Outcome
	if err := software.Execute(key, &p, &o); err != nil {
		t.Fatal(err)
	}
	mac := o.Steps[0].Bytes

	p.Steps[1] = p.Steps[0]
	p.Steps[1].Requires = 1
	p.NumSteps = 2
	for n := uint8(1); n <= 8; n++ {
		p.Steps[0].ProduceBytes, p.Steps[0].CompareBytes = 0, n
		for at := range uint8(8) {
			p.Steps[0].Expected = mac
			p.Steps[0].Expected[at] ^= 0x40
			want, after := cryptogram.Matched, cryptogram.Produced
			if at < n {
				want, after = cryptogram.Mismatched, cryptogram.NotRun
			}
			if err := software.Execute(key, &p, &o); err != nil {
				t.Fatal(err)
			}
			if o.Steps[0].Status != want || o.Steps[1].Status != after {
				t.Fatalf("%d bytes compared, byte %d wrong: statuses %d and %d", n, at, o.Steps[0].Status, o.Steps[1].Status)
			}
			if o.Steps[0].Bytes != [8]byte{} || (after == cryptogram.NotRun && o.Steps[1].Bytes != [8]byte{}) {
				t.Fatal("bytes without a result")
			}
		}
	}
}

// TestOutcomeIsOverwritten: nothing of an earlier run shines through, not
// after an error either.
func TestOutcomeIsOverwritten(t *testing.T) {
	stale := cryptogram.Outcome{}
	for i := range stale.Steps {
		stale.Steps[i] = cryptogram.StepOutcome{Status: cryptogram.Matched, Bytes: [8]byte{1}}
	}
	o := stale
	if err := software.Execute([16]byte{}, &cryptogram.Plan{}, &o); err == nil || o != (cryptogram.Outcome{}) {
		t.Fatalf("empty plan: error %v", err)
	}
	o = stale
	p := scratchMAC([]byte("tapseal!"))
	p.Steps[0].ProduceBytes = 4
	if err := software.Execute([16]byte{1}, &p, &o); err != nil {
		t.Fatal(err)
	}
	if o.Steps[0].Status != cryptogram.Produced || [4]byte(o.Steps[0].Bytes[4:]) != [4]byte{} {
		t.Fatal("more bytes than asked for")
	}
	if o.Steps[1] != (cryptogram.StepOutcome{}) {
		t.Fatal("a step that is not in the plan has an outcome")
	}
}
