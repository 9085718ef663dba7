package cryptogram_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// shapes is what each profile costs: keys derived for a verification, and more
// for its ARPC. More than that is a slower HSM, less would be a shared key
// with two rights.
var shapes = map[string]struct{ verify, respond uint8 }{
	"visa-cvn10":       {2, 2}, // MK for computing, KL‖KL
	"visa-cvn18":       {3, 3}, // MK for deriving, session key, KL‖KL
	"visa-cvn22":       {3, 3},
	"mastercard-cvn16": {3, 4}, // the ARPC needs the MK for computing as well
	"mastercard-cvn17": {3, 4},
	"mastercard-cvn20": {3, 3},
	"mastercard-cvn21": {3, 3},
	"interac-cvn133":   {3, 3},
	"emv-ccd":          {3, 3},
	"pboc-tdes":        {3, 3},
}

func TestPlanShape(t *testing.T) {
	eachTap(t, func(t *testing.T, tp tap) {
		shape := shapes[tp.profile.Name]
		var p cryptogram.Plan
		if err := tp.plan(&p); err != nil {
			t.Fatal(err)
		}
		if p.NumDerivations != shape.respond || p.NumSteps != 2 {
			t.Fatalf("with a response: %d derivations, %d steps", p.NumDerivations, p.NumSteps)
		}
		checkOneRight(t, &p)
		tp.response = cryptogram.Response{}
		if err := tp.plan(&p); err != nil {
			t.Fatal(err)
		}
		if p.NumDerivations != shape.verify || p.NumSteps != 1 {
			t.Fatalf("without a response: %d derivations, %d steps", p.NumDerivations, p.NumSteps)
		}
		checkOneRight(t, &p)
	})
}

// checkOneRight: every derived key is used, for its one purpose, and the
// comparison covers all bytes of the cryptogram.
func checkOneRight(t *testing.T, p *cryptogram.Plan) {
	t.Helper()
	used := map[cryptogram.KeyNode]cryptogram.Purpose{}
	seen := map[cryptogram.Derivation]bool{}
	for _, d := range p.Derivations[:p.NumDerivations] {
		if d.Parent != cryptogram.RootKey {
			used[d.Parent] |= cryptogram.ForDeriving
		}
		if seen[d] {
			t.Error("one key is derived twice")
		}
		seen[d] = true
	}
	for i, s := range p.Steps[:p.NumSteps] {
		used[s.Key] |= cryptogram.ForComputing
		if s.Op == cryptogram.RetailMAC {
			used[s.Left] |= cryptogram.ForComputing
		}
		if i == 0 && (s.CompareBytes != 8 || s.ProduceBytes != 0 || s.Requires != 0) {
			t.Error("step 1 does not compare the whole cryptogram")
		}
		if i == 1 && (s.CompareBytes != 0 || s.Requires != 1) {
			t.Error("step 2 does not depend on step 1")
		}
	}
	for i, d := range p.Derivations[:p.NumDerivations] {
		if got := used[cryptogram.KeyNode(i+1)]; got != d.Purpose {
			t.Errorf("derivation %d is for %d and used for %d", i+1, d.Purpose, got)
		}
	}
}

// TestPlanReuse: a plan that was used before gives the same outcome as a new
// one, and building writes only what is used.
func TestPlanReuse(t *testing.T) {
	taps := sound(t)
	dirty := &cryptogram.Plan{}
	for i := range dirty.Steps {
		for j := range dirty.Steps[i].Data {
			dirty.Steps[i].Data[j] = 0xA5
		}
		dirty.Steps[i].Expected = [8]byte{1, 2, 3}
		dirty.Steps[i].Left, dirty.Steps[i].Requires = 7, 3
	}
	for range 2 {
		for _, tp := range taps {
			var fresh cryptogram.Plan
			if err := tp.plan(&fresh); err != nil {
				t.Fatal(err)
			}
			if err := tp.plan(dirty); err != nil {
				t.Fatal(err)
			}
			mac, arpc := run(t, tp.imk, dirty)
			if mac != cryptogram.Matched || arpc != cryptogram.Produced {
				t.Fatalf("%s: statuses %d and %d in a used plan", tp.name, mac, arpc)
			}
			if !bytes.Equal(planBytes(&fresh), planBytes(dirty)) {
				t.Fatalf("%s: what is read of a used plan differs", tp.name)
			}
			if dirty.Steps[0].Data[200] != 0xA5 || dirty.Steps[3].Left != 7 {
				t.Fatalf("%s: bytes were written that nobody reads", tp.name)
			}
		}
	}
}

// planBytes is everything of a plan that an executor reads.
func planBytes(p *cryptogram.Plan) []byte {
	b := []byte{p.NumDerivations, p.NumSteps}
	for _, d := range p.Derivations[:p.NumDerivations] {
		b = append(append(b, byte(d.Parent), byte(d.Purpose)), d.Input[:]...)
	}
	for _, s := range p.Steps[:p.NumSteps] {
		b = append(b, byte(s.Op), byte(s.Key), byte(s.Left), byte(s.Requires), s.CompareBytes, s.ProduceBytes, byte(s.DataBytes))
		b = append(append(b, s.Expected[:]...), s.Data[:s.DataBytes]...)
	}
	return b
}

// TestBuildPlanRefuses: the worker does not trust the daemon's requests.
func TestBuildPlanRefuses(t *testing.T) {
	good := map[string]cryptogram.Request{}
	for _, tp := range sound(t) {
		r, err := tp.request()
		if err != nil {
			t.Fatal(err)
		}
		good[tp.profile.Name] = r
	}
	tests := []struct {
		name    string
		profile string
		breakIt func(*cryptogram.Request)
	}{
		{"no profile", "visa-cvn18", func(r *cryptogram.Request) { r.Profile = 0 }},
		{"profile beyond the table", "visa-cvn18", func(r *cryptogram.Request) { r.Profile = 11 }},
		{"another version's profile", "visa-cvn18", func(r *cryptogram.Request) { r.Profile = cryptogram.VisaCVN22 }},
		{"another scheme's profile", "visa-cvn18", func(r *cryptogram.Request) { r.Profile = cryptogram.MastercardCVN16 }},
		{"no option", "visa-cvn18", func(r *cryptogram.Request) { r.KeyOption = 0 }},
		{"option that the profile does not allow", "visa-cvn10", func(r *cryptogram.Request) { r.KeyOption = cryptogram.OptionB }},
		{"no PAN", "visa-cvn18", func(r *cryptogram.Request) { r.PAN = cryptogram.PAN{} }},
		{"no IAD", "visa-cvn18", func(r *cryptogram.Request) { r.IAD.Len = 0 }},
		{"no IAD where the layout is unknown", "interac-cvn133", func(r *cryptogram.Request) { r.IAD.Len = 0 }},
		{"impossible IAD", "interac-cvn133", func(r *cryptogram.Request) { r.IAD.Len = 33 }},
		{"IAD that is not used", "pboc-tdes", func(r *cryptogram.Request) { r.IAD.Len = 1 }},
		{"CVR that is not used", "visa-cvn10", func(r *cryptogram.Request) { r.CVR.Len = 4 }},
		{"no CVR", "pboc-tdes", func(r *cryptogram.Request) { r.CVR.Len = 0 }},
		{"long CVR", "pboc-tdes", func(r *cryptogram.Request) { r.CVR.Len = 6 }},
		{"impossible CVR", "pboc-tdes", func(r *cryptogram.Request) { r.CVR.Len = 200 }},
		{"unknown response", "visa-cvn18", func(r *cryptogram.Request) { r.Response.Kind = 3 }},
		{"response code for method 2", "visa-cvn18", func(r *cryptogram.Request) { r.Response = cryptogram.Response{Kind: cryptogram.ResponseCode} }},
		{"status update for method 1", "visa-cvn10", func(r *cryptogram.Request) { r.Response.Kind = cryptogram.CardStatusUpdate }},
		{"too much authentication data", "visa-cvn18", func(r *cryptogram.Request) { r.Response.PADLen = 9 }},
		{"authentication data for method 1", "visa-cvn10", func(r *cryptogram.Request) { r.Response.PADLen = 1 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := good[tt.profile]
			tt.breakIt(&r)
			p := cryptogram.Plan{NumDerivations: 3, NumSteps: 2}
			if err := cryptogram.BuildPlan(&r, &p); err == nil {
				t.Fatal("built")
			}
			if p.NumDerivations != 0 || p.NumSteps != 0 {
				t.Fatal("an error left a plan behind")
			}
			if err := cryptogram.Validate(&p, true); err == nil {
				t.Fatal("an empty plan validates")
			}
		})
	}
}

func TestIssuerAuthenticationData(t *testing.T) {
	code := cryptogram.Response{Kind: cryptogram.ResponseCode, ARC: [2]byte{0x30, 0x30}}
	update := cryptogram.Response{Kind: cryptogram.CardStatusUpdate, CSU: [4]byte{0, 0x82, 0, 0}, PADLen: 2, PAD: [8]byte{7, 8, 9}}
	tests := []struct {
		arpc string
		r    cryptogram.Response
		want string
	}{
		{"28993816afae4aeb", code, "28993816afae4aeb3030"},
		{"90ef477f", update, "90ef477f008200000708"},
		{"90ef477f", cryptogram.Response{}, ""},
	}
	for _, tt := range tests {
		got := cryptogram.AppendIssuerAuthenticationData(nil, unhex(t, tt.arpc), &tt.r)
		if hex.EncodeToString(got) != tt.want {
			t.Errorf("kind %d: wrong value", tt.r.Kind)
		}
	}
}

func TestCanary(t *testing.T) {
	key := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9}
	var p cryptogram.Plan
	var o cryptogram.Outcome
	cryptogram.CanaryBirthPlan(&p)
	if cryptogram.Validate(&p, false) == nil {
		t.Fatal("a data worker would reveal the canary of any key")
	}
	if err := software.Execute(key, &p, &o); err != nil || o.Steps[0].Status != cryptogram.Produced {
		t.Fatalf("making a canary: status %d, error %v", o.Steps[0].Status, err)
	}
	birth := o.Steps[0].Bytes
	child := naiveDerive(key[:], []byte("tapseal canary 1"))
	if !bytes.Equal(birth[:], naiveDES3(child, []byte("tapseal!"))) {
		t.Fatal("the canary is not the documented value")
	}
	cryptogram.CanaryPlan(birth, &p)
	if mac, _ := run(t, key, &p); mac != cryptogram.Matched {
		t.Fatalf("right key: status %d", mac)
	}
	key[15] ^= 2
	if mac, _ := run(t, key, &p); mac != cryptogram.Mismatched {
		t.Fatalf("wrong key: status %d", mac)
	}
}

func TestValidateRefuses(t *testing.T) {
	var tp tap
	for _, candidate := range sound(t) {
		if candidate.profile.ID == cryptogram.MastercardCVN16 {
			tp = candidate
		}
	}
	var good cryptogram.Plan
	if err := tp.plan(&good); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		scratch bool // whether a scratch token may run it
		breakIt func(*cryptogram.Plan)
	}{
		{"no steps", false, func(p *cryptogram.Plan) { p.NumSteps = 0 }},
		{"too many steps", false, func(p *cryptogram.Plan) { p.NumSteps = cryptogram.MaxSteps + 1 }},
		{"too many derivations", false, func(p *cryptogram.Plan) { p.NumDerivations = cryptogram.MaxDerivations + 1 }},
		{"purpose zero", false, func(p *cryptogram.Plan) { p.Derivations[1].Purpose = 0 }},
		{"both purposes", false, func(p *cryptogram.Plan) { p.Derivations[1].Purpose = 3 }},
		{"own parent", false, func(p *cryptogram.Plan) { p.Derivations[1].Parent = 2 }},
		{"later parent", false, func(p *cryptogram.Plan) { p.Derivations[1].Parent = 4 }},
		{"parent from nowhere", false, func(p *cryptogram.Plan) { p.Derivations[1].Parent = 255 }},
		{"parent for computing", false, func(p *cryptogram.Plan) { p.Derivations[3].Parent = 2 }},
		{"no data", false, func(p *cryptogram.Plan) { p.Steps[0].DataBytes = 0 }},
		{"part of a block", false, func(p *cryptogram.Plan) { p.Steps[0].DataBytes-- }},
		{"data beyond the buffer", false, func(p *cryptogram.Plan) { p.Steps[0].DataBytes = cryptogram.MaxStepBytes + 8 }},
		{"neither compare nor produce", false, func(p *cryptogram.Plan) { p.Steps[0].CompareBytes = 0 }},
		{"compare and produce", false, func(p *cryptogram.Plan) { p.Steps[0].ProduceBytes = 8 }},
		{"compare too much", false, func(p *cryptogram.Plan) { p.Steps[0].CompareBytes = 9 }},
		{"produce too much", false, func(p *cryptogram.Plan) { p.Steps[1].ProduceBytes = 9 }},
		{"requires itself", false, func(p *cryptogram.Plan) { p.Steps[0].Requires = 1 }},
		{"requires a later step", false, func(p *cryptogram.Plan) { p.Steps[1].Requires = 3 }},
		{"requires a step that produces", false, func(p *cryptogram.Plan) {
			p.Steps[2], p.NumSteps = p.Steps[1], 3
			p.Steps[2].Requires = 2
		}},
		{"produces without a comparison", true, func(p *cryptogram.Plan) { p.Steps[1].Requires = 0 }},
		{"key for deriving", false, func(p *cryptogram.Plan) { p.Steps[0].Key = 1 }},
		{"key from nowhere", false, func(p *cryptogram.Plan) { p.Steps[0].Key = 5 }},
		{"root for computing", true, func(p *cryptogram.Plan) { p.Steps[1].Key = cryptogram.RootKey }},
		{"root as left half of another key", false, func(p *cryptogram.Plan) { p.Steps[0].Left = cryptogram.RootKey }},
		{"left half of the root", false, func(p *cryptogram.Plan) { p.Steps[0].Key = cryptogram.RootKey }},
		{"left half for deriving", false, func(p *cryptogram.Plan) { p.Steps[0].Left = 1 }},
		{"left half from nowhere", false, func(p *cryptogram.Plan) { p.Steps[0].Left = 9 }},
		{"left half is the key", false, func(p *cryptogram.Plan) { p.Steps[0].Left = p.Steps[0].Key }},
		{"left half of another parent", false, func(p *cryptogram.Plan) { p.Derivations[2].Parent = cryptogram.RootKey }},
		{"left half of another input", false, func(p *cryptogram.Plan) { p.Derivations[2].Input[0] ^= 1 }},
		{"left half is the right one", false, func(p *cryptogram.Plan) { copy(p.Derivations[2].Input[8:], p.Derivations[1].Input[8:]) }},
		{"operation zero", false, func(p *cryptogram.Plan) { p.Steps[0].Op = 0 }},
		{"unknown operation", false, func(p *cryptogram.Plan) { p.Steps[0].Op = 3 }},
		{"two blocks to encipher", false, func(p *cryptogram.Plan) { p.Steps[1].DataBytes = 16 }},
		{"two keys to encipher", false, func(p *cryptogram.Plan) { p.Steps[1].Left = 3 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := good
			tt.breakIt(&p)
			if err := cryptogram.Validate(&p, false); !errors.Is(err, cryptogram.ErrPlan) {
				t.Errorf("for a data worker: %v", err)
			}
			if err := cryptogram.Validate(&p, true); (err == nil) != tt.scratch {
				t.Errorf("for a scratch token: %v", err)
			}
			var o cryptogram.Outcome
			if err := software.Execute(tp.imk, &p, &o); (err == nil) != tt.scratch {
				t.Errorf("executed: %v", err)
			}
		})
	}
}

// formulas is the table once more, in the words of the vector files.
var formulas = map[string]struct {
	skd, padding string
	appended     func(iad, cvr []byte) []byte
	arpcUnderMK  bool
	method2      bool
}{
	"visa-cvn10":       {"none", "iso9797_m1", func(iad, _ []byte) []byte { return iad[3:7] }, true, false},
	"visa-cvn18":       {"csk", "iso9797_m2", func(iad, _ []byte) []byte { return iad }, false, true},
	"visa-cvn22":       {"csk", "iso9797_m2", func(iad, _ []byte) []byte { return iad }, false, true},
	"mastercard-cvn16": {"mc_skd", "iso9797_m2", func(iad, _ []byte) []byte { return iad[2:8] }, true, false},
	"mastercard-cvn17": {"mc_skd", "iso9797_m2", cvrAndCounters, true, false},
	"mastercard-cvn20": {"csk", "iso9797_m2", func(iad, _ []byte) []byte { return iad[2:8] }, false, false},
	"mastercard-cvn21": {"csk", "iso9797_m2", cvrAndCounters, false, false},
	"interac-cvn133":   {"mc_skd", "iso9797_m2", func(iad, _ []byte) []byte { return iad }, false, false},
	"emv-ccd":          {"csk", "iso9797_m2", func(iad, _ []byte) []byte { return iad }, false, true},
	"pboc-tdes":        {"pboc", "iso9797_m2", func(_, cvr []byte) []byte { return cvr }, false, false},
}

func cvrAndCounters(iad, _ []byte) []byte {
	counters := map[int]int{18: 8, 20: 8, 26: 16, 28: 16}[len(iad)]
	return append(bytes.Clone(iad[2:8]), iad[10:10+counters]...)
}

func drawIAD(t *rapid.T, p *cryptogram.Profile) []byte {
	fill := func(n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "iad") }
	dki := fill(1)[0]
	switch {
	case p.ID == cryptogram.VisaCVN22:
		return append([]byte{0x1F, p.CVN, dki}, fill(29)...)
	case p.Scheme == cryptogram.SchemeVisa:
		return append([]byte{0x06, dki, p.CVN, 0x03}, fill(3+rapid.IntRange(0, 25).Draw(t, "issuer"))...)
	case p.Scheme == cryptogram.SchemeMastercard:
		return append([]byte{dki, p.CVN}, fill(rapid.SampledFrom([]int{16, 18, 24, 26}).Draw(t, "rest"))...)
	case p.Scheme == cryptogram.SchemeCCD:
		iad := append([]byte{0x0F, p.CVN, dki}, fill(29)...)
		iad[16] = 0x0F
		return iad
	}
	return fill(rapid.IntRange(1, 32).Draw(t, "length"))
}

// TestRandomTaps makes cards, cryptograms and responses with the naive
// formulas and takes them through field 55, request, plan and executor.
func TestRandomTaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytesOf := func(n int, what string) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, what) }
		id := cryptogram.ProfileID(rapid.IntRange(1, 10).Draw(t, "profile"))
		prof, _ := cryptogram.LookupProfile(id)
		f := formulas[prof.Name]
		tp := tap{profile: prof, imk: [16]byte(bytesOf(16, "imk"))}
		tp.pan = rapid.StringMatching(`[0-9]{12,19}`).Draw(t, "pan")
		tp.psn = rapid.StringMatching(`[0-9]{2}`).Draw(t, "psn")
		tp.option = rapid.SampledFrom(prof.Options).Draw(t, "option")
		var message []byte
		for _, el := range commonElements {
			tp.objects = append(tp.objects, tlv{el.tag, bytesOf(el.bytes, "value")})
			message = append(message, tp.objects[len(tp.objects)-1].value...)
		}
		iad := drawIAD(t, prof)
		if id == cryptogram.PBOCTDES {
			tp.cvr = bytesOf(4, "cvr")
		}
		message = append(message, f.appended(iad, tp.cvr)...)
		tp.objects = append(tp.objects, tlv{0x9F10, iad})

		option := map[cryptogram.KeyOption]string{1: "A", 2: "B"}[tp.option]
		mk := naiveICCMasterKey(tp.imk[:], option, tp.pan, tp.psn)
		sk := naiveSessionKey(mk, f.skd, tp.element(0x9F36), tp.element(0x9F37))
		ac := naiveRetailMAC(sk, naivePad(message, f.padding))
		tp.objects = append(tp.objects, tlv{0x9F26, ac})

		arpcKey := sk
		if f.arpcUnderMK {
			arpcKey = mk
		}
		var want []byte
		if f.method2 {
			tp.response = cryptogram.Response{Kind: cryptogram.CardStatusUpdate, CSU: [4]byte(bytesOf(4, "csu"))}
			pad := bytesOf(rapid.IntRange(0, 8).Draw(t, "padLength"), "pad")
			tp.response.PADLen = uint8(copy(tp.response.PAD[:], pad))
			in := slices.Concat(ac, tp.response.CSU[:], pad)
			want = naiveRetailMAC(arpcKey, naivePad(in, "iso9797_m2"))[:4]
		} else {
			tp.response = cryptogram.Response{Kind: cryptogram.ResponseCode, ARC: [2]byte(bytesOf(2, "arc"))}
			in := bytes.Clone(ac)
			in[0] ^= tp.response.ARC[0]
			in[1] ^= tp.response.ARC[1]
			want = naiveDES3(arpcKey, in)
		}
		checkRandomTap(t, tp, ac, want)
	})
}

func checkRandomTap(t *rapid.T, tp tap, ac, want []byte) {
	var p cryptogram.Plan
	if err := tp.plan(&p); err != nil {
		t.Fatal(err)
	}
	if err := cryptogram.Validate(&p, false); err != nil {
		t.Fatal(err)
	}
	var o cryptogram.Outcome
	if err := software.Execute(tp.imk, &p, &o); err != nil {
		t.Fatal(err)
	}
	if o.Steps[0].Status != cryptogram.Matched || o.Steps[1].Status != cryptogram.Produced {
		t.Fatalf("%s: statuses %d and %d", tp.profile.Name, o.Steps[0].Status, o.Steps[1].Status)
	}
	if !bytes.Equal(o.Steps[1].Bytes[:len(want)], want) || !bytes.Equal(o.Steps[1].Bytes[len(want):], make([]byte, 8-len(want))) {
		t.Fatalf("%s: ARPC differs", tp.profile.Name)
	}
	other := tp.with(0x9F26, flip(ac, rapid.IntRange(0, 63).Draw(t, "bit")))
	if err := other.plan(&p); err != nil {
		t.Fatal(err)
	}
	if err := software.Execute(tp.imk, &p, &o); err != nil {
		t.Fatal(err)
	}
	if o.Steps[0].Status != cryptogram.Mismatched || o.Steps[1] != (cryptogram.StepOutcome{}) {
		t.Fatalf("%s: a wrong cryptogram ended with status %d and %d", tp.profile.Name, o.Steps[0].Status, o.Steps[1].Status)
	}
}

func TestRequestIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(cryptogram.Request{}); n > 200 {
		t.Errorf("a request has %d bytes, want at most 200", n)
	}
}
