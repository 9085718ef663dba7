package conformance

import (
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/cryptogram"
)

var (
	long = flag.Bool("long", os.Getenv("TAPSEAL_LONG") == "1", "run 5,000 random cases instead of 300")
	seed = flag.Uint64("seed", 0, "seed of the random cases; 0 takes another one each time")
)

// TestDifferential: random requests of every profile, right and wrong, have
// the same outcome in a token, in the software executor and by the formulas
// written a second time.
func TestDifferential(t *testing.T) {
	cases := 300
	if *long {
		cases = 5000
	}
	for i, token := range tokenCases() {
		t.Run(token.name, func(t *testing.T) {
			n := *seed
			if n == 0 {
				n = uint64(time.Now().UnixNano())
			}
			t.Logf("%d cases, -seed %d", cases, n)
			exec := startToken(t, token)
			rng := rand.New(rand.NewPCG(n, uint64(i)))
			for k := range cases {
				c := randomCase(t, rng, cryptogram.ProfileID(k%len(cryptogram.Profiles())+1))
				c.check(t, k, exec)
				if t.Failed() {
					t.Fatalf("case %d of -seed %d, profile %s", k, n, c.profile.Name)
				}
			}
		})
	}
}

type randomRequest struct {
	profile  *cryptogram.Profile
	root     [16]byte
	request  cryptogram.Request
	right    bool
	response []byte // the ARPC; nil if none is asked for
}

// check runs one case everywhere.
func (c *randomRequest) check(t *testing.T, k int, exec Executor) {
	t.Helper()
	var plan cryptogram.Plan
	if err := cryptogram.BuildPlan(&c.request, &plan); err != nil {
		t.Fatalf("case %d: %v", k, err)
	}
	if err := cryptogram.Validate(&plan, false); err != nil {
		t.Errorf("case %d is not fit for a data worker: %v", k, err)
	}
	var want cryptogram.Outcome
	want.Steps[0].Status = cryptogram.Mismatched
	if c.right {
		want.Steps[0].Status = cryptogram.Matched
		if c.response != nil {
			want.Steps[1].Status = cryptogram.Produced
			copy(want.Steps[1].Bytes[:], c.response)
		}
	}
	for name, e := range map[string]Executor{"software": inSoftware{}, "token": exec} {
		got, err := e.Execute(c.root, &plan)
		if err != nil {
			t.Fatalf("case %d, %s: %v", k, name, err)
		}
		if !cmp.Equal(want, got) { // the difference would show an ARPC
			t.Errorf("case %d, %s: step states %d %d, want %d %d, or another ARPC", k, name,
				got.Steps[0].Status, got.Steps[1].Status, want.Steps[0].Status, want.Steps[1].Status)
		}
	}
}

func randomCase(t *testing.T, rng *rand.Rand, id cryptogram.ProfileID) *randomRequest {
	t.Helper()
	profile, ok := cryptogram.LookupProfile(id)
	if !ok {
		t.Fatalf("no profile %d", id)
	}
	c := &randomRequest{profile: profile, right: rng.IntN(3) > 0}
	r := &c.request
	r.Profile, r.KeyOption = id, profile.Options[rng.IntN(len(profile.Options))]
	pan, psn := digits(rng, 12+rng.IntN(8)), digits(rng, 2)
	if rng.IntN(4) == 0 {
		psn = "00"
	}
	var err1, err2 error
	r.PAN, err1 = cryptogram.ParsePAN(pan)
	r.PSN, err2 = cryptogram.ParsePSN(psn)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	fill(rng, c.root[:])
	d := &r.Data
	for _, field := range [][]byte{
		d.AmountAuthorised[:], d.AmountOther[:], d.TerminalCountry[:], d.TVR[:], d.Currency[:],
		d.Date[:], d.Type[:], d.UN[:], d.AIP[:], d.ATC[:],
	} {
		fill(rng, field)
	}
	tail := c.randomCardData(rng)
	message := slices.Concat(d.AmountAuthorised[:], d.AmountOther[:], d.TerminalCountry[:], d.TVR[:], d.Currency[:],
		d.Date[:], d.Type[:], d.UN[:], d.AIP[:], d.ATC[:], tail)
	c.answer(t, rng, message, pan, psn)
	return c
}

// answer computes cryptogram and response by the formulas, then spoils a bit
// of the cryptogram in the wrong cases.
func (c *randomRequest) answer(t *testing.T, rng *rand.Rand, message []byte, pan, psn string) {
	t.Helper()
	row, ok := refSchemes()[c.profile.Name]
	if !ok {
		t.Fatalf("docs/schemes.md has no row for profile %s", c.profile.Name)
	}
	r := &c.request
	mk := refCardKey(t, c.root[:], pan, psn, r.KeyOption == cryptogram.OptionB)
	sk := refSessionKey(t, mk, row.sessionKey, r.Data.ATC[:], r.Data.UN[:])
	copy(r.Cryptogram[:], refMAC(t, sk, message, row.padding2))
	if rng.IntN(3) > 0 {
		c.respond(t, rng, row, mk, sk)
	}
	if !c.right {
		bit := rng.IntN(64)
		r.Cryptogram[bit/8] ^= 1 << (bit % 8)
	}
}

func (c *randomRequest) respond(t *testing.T, rng *rand.Rand, row refScheme, mk, sk []byte) {
	t.Helper()
	r := &c.request
	if row.response2 {
		r.Response.Kind, r.Response.PADLen = cryptogram.CardStatusUpdate, uint8(rng.IntN(9))
		fill(rng, r.Response.CSU[:])
		pad := r.Response.PAD[:r.Response.PADLen]
		fill(rng, pad)
		c.response = refMAC(t, sk, slices.Concat(r.Cryptogram[:], r.Response.CSU[:], pad), true)[:4]
		return
	}
	r.Response.Kind = cryptogram.ResponseCode
	fill(rng, r.Response.ARC[:])
	key := sk
	if row.cardKey {
		key = mk
	}
	c.response = refResponse1(t, key, r.Cryptogram[:], r.Response.ARC[:])
}

// randomCardData sets issuer application data, or the card verification
// results, and returns what of it belongs to the cryptogram input.
func (c *randomRequest) randomCardData(rng *rand.Rand) []byte {
	r := &c.request
	switch c.profile.Name {
	case "visa-cvn10", "visa-cvn18":
		iad := r.IAD.Bytes[:7+rng.IntN(26)]
		fill(rng, iad)
		iad[0], iad[2], iad[3] = 0x06, c.profile.CVN, 0x03
		r.IAD.Len = uint8(len(iad))
		if c.profile.Name == "visa-cvn10" {
			return iad[3:7]
		}
		return iad
	case "visa-cvn22":
		iad := r.IAD.Bytes[:32]
		fill(rng, iad)
		iad[0], iad[1] = 0x1F, 0x22
		r.IAD.Len = 32
		return iad
	case "emv-ccd":
		iad := r.IAD.Bytes[:32]
		fill(rng, iad)
		iad[0], iad[1], iad[16] = 0x0F, 0xA5, 0x0F
		r.IAD.Len = 32
		return iad
	case "interac-cvn133":
		iad := r.IAD.Bytes[:1+rng.IntN(32)]
		fill(rng, iad)
		r.IAD.Len = uint8(len(iad))
		return iad
	case "pboc-tdes":
		fill(rng, r.CVR.Bytes[:4])
		r.CVR.Len = 4
		return r.CVR.Bytes[:4]
	}
	return c.randomMastercard(rng)
}

func (c *randomRequest) randomMastercard(rng *rand.Rand) []byte {
	r := &c.request
	iad := r.IAD.Bytes[:[]int{18, 20, 26, 28}[rng.IntN(4)]]
	fill(rng, iad)
	iad[1] = c.profile.CVN
	r.IAD.Len = uint8(len(iad))
	tail := iad[2:8]
	if c.profile.CVN&1 != 0 {
		counters := 8
		if len(iad) > 20 {
			counters = 16
		}
		tail = slices.Concat(tail, iad[10:10+counters])
	}
	return tail
}

func digits(rng *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + rng.IntN(10))
	}
	return string(b)
}

func fill(rng *rand.Rand, b []byte) {
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
}
