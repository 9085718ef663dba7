package cryptogram_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// evidence ties a row of the table to vectors from outside. Every row needs at
// least one entry.
type evidence struct {
	profile    string
	option     cryptogram.KeyOption
	ac         string // cryptogram
	cardKey    string // card key, by check value or by value
	sessionKey string // session key; empty if the profile has none
	arpc       string
	// iad wraps what the vector's message ends with into the value of 9F10
	// that a card of the profile sends; nil if the message has the whole value.
	iad func(appended []byte) []byte
	// foreignIAD: see tap.
	foreignIAD bool
}

func visaCVN10IAD(cvr []byte) []byte { return append([]byte{0x06, 0x01, 0x0A}, cvr...) }

// mchipIAD puts DKI, version, data authentication code and, where the message
// has none, counters around the CVR.
func mchipIAD(cvn byte) func([]byte) []byte {
	return func(appended []byte) []byte {
		iad := append([]byte{0x01, cvn}, appended[:6]...)
		iad = append(iad, 0x12, 0x34)
		if counters := appended[6:]; len(counters) > 0 {
			return append(iad, counters...)
		}
		return append(iad, make([]byte, 8)...)
	}
}

var evidences = []evidence{
	{profile: "visa-cvn10", option: cryptogram.OptionA, ac: "ac-pyemv-visa_cvn10", cardKey: "mk-pyemv-4", arpc: "arpc-pyemv-visa_cvn10", iad: visaCVN10IAD},
	{profile: "visa-cvn18", option: cryptogram.OptionA, ac: "ac-pyemv-visa_cvn18", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-csk-6", arpc: "arpc-pyemv-visa_cvn18"},
	{profile: "visa-cvn18", option: cryptogram.OptionB, ac: "ac-pyemv-visa_cvn18", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-csk-6", arpc: "arpc-pyemv-visa_cvn18"},
	{profile: "visa-cvn18", option: cryptogram.OptionB, ac: "ac-pyemv-kd-7", cardKey: "mk-pyemv-6", sessionKey: "sk-pyemv-csk-5", arpc: "arpc-pyemv-8"},
	// pyemv's test of CVN 22 has these very data and answers.
	{profile: "visa-cvn22", option: cryptogram.OptionA, ac: "ac-pyemv-visa_cvn18", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-csk-6", arpc: "arpc-pyemv-visa_cvn18", foreignIAD: true},
	{profile: "visa-cvn22", option: cryptogram.OptionB, ac: "ac-pyemv-kd-7", cardKey: "mk-pyemv-6", sessionKey: "sk-pyemv-csk-5", arpc: "arpc-pyemv-8", foreignIAD: true},
	// The same formula over 32 bytes of issuer application data.
	{profile: "visa-cvn22", option: cryptogram.OptionA, ac: "ac-emvco-a33", cardKey: "mk-emvco-a31", sessionKey: "sk-emvco-a32", arpc: "arpc-emvco-a34", foreignIAD: true},
	{profile: "mastercard-cvn16", option: cryptogram.OptionA, ac: "ac-pyemv-mastercard_cvn16", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-mcskd-1", arpc: "arpc-pyemv-mastercard_cvn16", iad: mchipIAD(0x10)},
	{profile: "mastercard-cvn17", option: cryptogram.OptionA, ac: "ac-pyemv-mastercard_cvn17", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-mcskd-1", arpc: "arpc-pyemv-mastercard_cvn17", iad: mchipIAD(0x11)},
	{profile: "mastercard-cvn20", option: cryptogram.OptionA, ac: "ac-pyemv-mastercard_cvn20", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-csk-6", arpc: "arpc-pyemv-mastercard_cvn20", iad: mchipIAD(0x14)},
	{profile: "mastercard-cvn21", option: cryptogram.OptionA, ac: "ac-pyemv-mastercard_cvn21", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-csk-6", arpc: "arpc-pyemv-mastercard_cvn21", iad: mchipIAD(0x15)},
	{profile: "interac-cvn133", option: cryptogram.OptionA, ac: "ac-pyemv-interac_cvn133", cardKey: "mk-pyemv-4", sessionKey: "sk-pyemv-mcskd-1", arpc: "arpc-pyemv-interac_cvn133"},
	{profile: "emv-ccd", option: cryptogram.OptionA, ac: "ac-emvco-a33", cardKey: "mk-emvco-a31", sessionKey: "sk-emvco-a32", arpc: "arpc-emvco-a34"},
	{profile: "emv-ccd", option: cryptogram.OptionB, ac: "ac-emvco-a33", cardKey: "mk-emvco-a31", sessionKey: "sk-emvco-a32", arpc: "arpc-emvco-a34"},
	{profile: "pboc-tdes", option: cryptogram.OptionA, ac: "ac-pboc-1", cardKey: "sk-pboc-1", sessionKey: "sk-pboc-1", arpc: "arpc-pboc-1"},
}

func acVectors(t testing.TB) map[string]vector {
	return loadVectors(t, "arqc.json", "arpc.json", "session_key.json", "icc_master_key.json")
}

// tapOf takes the message of a vector apart into the elements it is made of,
// so that their order is proved by putting them together again.
func tapOf(t testing.TB, all map[string]vector, e evidence) tap {
	t.Helper()
	prof, ok := cryptogram.ProfileByName(e.profile)
	if !ok {
		t.Fatalf("profile %s: not in the table", e.profile)
	}
	v := mustVector(t, all, e.ac)
	message := unhex(t, v.ARQCData)
	tp := tap{
		name: e.profile + "/" + e.ac, profile: prof, option: e.option,
		imk: [16]byte(unhex(t, v.IMK)), pan: v.PAN, psn: v.PSN,
		message: message, foreignIAD: e.foreignIAD,
	}
	rest := message
	for _, el := range commonElements {
		tp.objects = append(tp.objects, tlv{el.tag, rest[:el.bytes]})
		rest = rest[el.bytes:]
	}
	switch {
	case prof.CVRFrom == cryptogram.CVRFromCaller:
		tp.cvr = rest
	case e.iad != nil:
		tp.objects = append(tp.objects, tlv{0x9F10, e.iad(rest)})
	default:
		tp.objects = append(tp.objects, tlv{0x9F10, rest})
	}
	tp.objects = append(tp.objects, tlv{0x9F26, unhex(t, v.want("ac"))})
	tp.response, tp.arpc = responseOf(t, mustVector(t, all, e.arpc), v.want("ac"))
	return tp
}

func responseOf(t testing.TB, v vector, ac string) (r cryptogram.Response, arpc []byte) {
	t.Helper()
	if v.ARQC != ac {
		t.Fatalf("vector %s is for another cryptogram", v.ID)
	}
	switch v.Op {
	case "arpc1":
		r.Kind = cryptogram.ResponseCode
		copy(r.ARC[:], unhex(t, v.ARC))
	case "arpc2":
		r.Kind = cryptogram.CardStatusUpdate
		copy(r.CSU[:], unhex(t, v.CSU))
		r.PADLen = uint8(copy(r.PAD[:], unhex(t, v.PAD)))
	default:
		t.Fatalf("vector %s is no ARPC", v.ID)
	}
	return r, unhex(t, v.want("arpc"))
}

func allTaps(t testing.TB) []tap {
	t.Helper()
	all := acVectors(t)
	taps := make([]tap, 0, len(evidences))
	for _, e := range evidences {
		taps = append(taps, tapOf(t, all, e))
	}
	return taps
}

// TestEvidence runs every profile against its vectors, stage by stage, so that
// a failure names the first wrong one.
func TestEvidence(t *testing.T) {
	all := acVectors(t)
	for _, e := range evidences {
		tp := tapOf(t, all, e)
		t.Run(tp.name, func(t *testing.T) {
			var p cryptogram.Plan
			if err := tp.plan(&p); err != nil {
				t.Fatalf("making the plan: %v", err)
			}
			checkCardKey(t, mustVector(t, all, e.cardKey), &tp)
			macKey := checkSessionKey(t, all, e, &tp, &p)
			v := mustVector(t, all, e.ac)
			if want := naivePad(tp.message, v.Padding); !bytes.Equal(p.Steps[0].Data[:p.Steps[0].DataBytes], want) {
				t.Fatal("stage 3: MAC input differs from the vector's")
			}
			if !bytes.Equal(naiveRetailMAC(macKey, naivePad(tp.message, v.Padding)), tp.element(0x9F26)) {
				t.Fatal("stage 4: cryptogram differs from the vector's")
			}
			var o cryptogram.Outcome
			if err := software.Execute(tp.imk, &p, &o); err != nil {
				t.Fatal(err)
			}
			if o.Steps[0].Status != cryptogram.Matched {
				t.Fatalf("stage 4: comparison ended with status %d", o.Steps[0].Status)
			}
			if o.Steps[1].Status != cryptogram.Produced {
				t.Fatalf("stage 5: ARPC ended with status %d", o.Steps[1].Status)
			}
			n := p.Steps[1].ProduceBytes
			if !bytes.Equal(o.Steps[1].Bytes[:n], tp.arpc) {
				t.Fatal("stage 5: ARPC differs from the vector's")
			}
		})
	}
}

// checkCardKey is stage 1: the input that the plan uses makes the vector's key.
func checkCardKey(t *testing.T, v vector, tp *tap) {
	t.Helper()
	in := cryptogram.ICCMasterKeyInput(tp.option, mustPAN(t, tp.pan), mustPSN(t, tp.psn))
	key := naiveDerive(tp.imk[:], in[:])
	proved := false
	if kcv := v.want("kcv"); v.Op == "icc_mk" && kcv != "" {
		proved = true
		if !hasCheckValue(key, kcv) {
			t.Fatal("stage 1: card key has another check value than the vector's")
		}
	}
	for _, value := range []string{v.want("icc_mk"), v.ICCMK, v.Own["icc_mk"]} {
		if value == "" {
			continue
		}
		proved = true
		if !sameKey(key, unhex(t, value)) {
			t.Fatal("stage 1: card key differs from the vector's")
		}
	}
	if !proved {
		t.Fatalf("stage 1: vector %s has no card key", v.ID)
	}
}

// checkSessionKey is stage 2. It returns the key that the plan computes under.
func checkSessionKey(t *testing.T, all map[string]vector, e evidence, tp *tap, p *cryptogram.Plan) []byte {
	t.Helper()
	key := nodeKey(tp.imk[:], p, p.Steps[0].Key)
	left := nodeKey(tp.imk[:], p, p.Steps[0].Left)
	if !bytes.Equal(left[:8], key[:8]) || !bytes.Equal(left[8:], key[:8]) {
		t.Fatal("stage 2: Left is not KL‖KL of the key")
	}
	if e.sessionKey == "" {
		if tp.profile.SessionKey != cryptogram.SessionKeyNone {
			t.Fatal("stage 2: no session key vector for a profile that has session keys")
		}
		return key
	}
	v := mustVector(t, all, e.sessionKey)
	if kcv := v.want("kcv"); kcv != "" && !hasCheckValue(key, kcv) {
		t.Fatal("stage 2: session key has another check value than the vector's")
	}
	value := v.want("session_key") + v.Own["session_key"]
	if !sameKey(key, unhex(t, value)) {
		t.Fatal("stage 2: session key differs from the vector's")
	}
	return key
}

// nodeKey derives the key of a plan's node.
func nodeKey(root []byte, p *cryptogram.Plan, n cryptogram.KeyNode) []byte {
	if n == cryptogram.RootKey {
		return root
	}
	d := p.Derivations[n-1]
	return naiveDerive(nodeKey(root, p, d.Parent), d.Input[:])
}

func mustPAN(t testing.TB, s string) cryptogram.PAN {
	t.Helper()
	p, err := cryptogram.ParsePAN(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustPSN(t testing.TB, s string) cryptogram.PSN {
	t.Helper()
	p, err := cryptogram.ParsePSN(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestTableIsProved: a row without a source or without a vector from outside
// may not be in the table.
func TestTableIsProved(t *testing.T) {
	all := acVectors(t)
	for i, p := range cryptogram.Profiles() {
		if int(p.ID) != i+1 {
			t.Errorf("profile %s: id %d in place %d", p.Name, p.ID, i+1)
		}
		if len(p.Sources) == 0 || slices.Contains(p.Sources, "") {
			t.Errorf("profile %s: no source", p.Name)
		}
		proved := false
		for _, e := range evidences {
			if e.profile != p.Name {
				continue
			}
			proved = true
			for _, id := range []string{e.ac, e.cardKey, e.arpc} {
				if v := mustVector(t, all, id); v.Provenance == "" || !v.Confirmed {
					t.Errorf("profile %s: vector %s is not confirmed from outside", p.Name, id)
				}
			}
		}
		if !proved {
			t.Errorf("profile %s: no vector from outside", p.Name)
		}
	}
}

func TestTableIsConsistent(t *testing.T) {
	names := map[string]bool{}
	for _, p := range cryptogram.Profiles() {
		if names[p.Name] {
			t.Errorf("profile %s: two of that name", p.Name)
		}
		names[p.Name] = true
		if got, ok := cryptogram.ProfileByName(p.Name); !ok || got.ID != p.ID {
			t.Errorf("profile %s: not found by name", p.Name)
		}
		if got, ok := cryptogram.LookupProfile(p.ID); !ok || got.Name != p.Name {
			t.Errorf("profile %s: not found by id", p.Name)
		}
		if s, ok := cryptogram.ParseScheme(p.Scheme.String()); !ok || s != p.Scheme {
			t.Errorf("profile %s: scheme does not survive its name", p.Name)
		}
		if len(p.Options) == 0 || p.SessionKey == 0 || p.Append == 0 || p.ARPC == 0 || p.ARPCKey == 0 || p.SelectedBy == 0 {
			t.Errorf("profile %s: a field has its invalid zero value", p.Name)
		}
		if p.Padding != cryptogram.PaddingMethod1 && p.Padding != cryptogram.PaddingMethod2 {
			t.Errorf("profile %s: padding method", p.Name)
		}
		if (p.Append == cryptogram.AppendIAD) != (p.CVRFrom == 0) || (p.CVRFrom == 0) != (p.CVRBytes == 0) {
			t.Errorf("profile %s: CVR source and appended data contradict each other", p.Name)
		}
		if p.ARPC == cryptogram.ARPCMethod2 && p.ARPCKey != cryptogram.ARPCUnderSessionKey {
			t.Errorf("profile %s: ARPC method 2 is built for the session key only", p.Name)
		}
		if (p.SelectedBy == cryptogram.SelectedByCVN) != cryptogram.HasIADLayout(p.Scheme) {
			t.Errorf("profile %s: selected by version without a public layout, or the reverse", p.Name)
		}
	}
	for _, u := range cryptogram.Unsupported() {
		if names[u.Name] {
			t.Errorf("profile %s: both supported and unsupported", u.Name)
		}
		if u.Name == "" || u.Reason == "" {
			t.Errorf("unsupported profile %q without name or reason", u.Name)
		}
	}
	if len(names) != 10 {
		t.Errorf("%d profiles, want 10", len(names))
	}
}

func TestTableIsReadOnly(t *testing.T) {
	rows := cryptogram.Profiles()
	for i := range rows {
		rows[i].Options[0] = 0
		rows[i].Sources[0] = ""
	}
	for _, p := range cryptogram.Profiles() {
		if p.Options[0] == 0 || p.Sources[0] == "" {
			t.Fatalf("profile %s: a copy of the table writes to the table", p.Name)
		}
	}
}

func TestLookupOfNothing(t *testing.T) {
	for _, id := range []cryptogram.ProfileID{0, 11, 0xFFFF} {
		if _, ok := cryptogram.LookupProfile(id); ok {
			t.Errorf("id %d: found", id)
		}
	}
	if _, ok := cryptogram.ProfileByName(""); ok {
		t.Error("empty name: found")
	}
	for _, name := range []string{"", "Visa", "amex", "scheme(0)"} {
		if _, ok := cryptogram.ParseScheme(name); ok {
			t.Errorf("scheme %q: known", name)
		}
	}
}
