package cryptogram_test

import (
	"slices"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// A tlv is one data object of a field 55 under construction.
type tlv struct {
	tag   cryptogram.Tag
	value []byte
}

// appendTLV is the tests' own encoder.
func appendTLV(b []byte, tag cryptogram.Tag, value []byte) []byte {
	if tag > 0xFF {
		b = append(b, byte(tag>>8))
	}
	b = append(b, byte(tag))
	switch n := len(value); {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	default:
		b = append(b, 0x82, byte(n>>8), byte(n))
	}
	return append(b, value...)
}

func field55(objects []tlv) []byte {
	var b []byte
	for _, o := range objects {
		b = appendTLV(b, o.tag, o.value)
	}
	return b
}

// commonElements is the order and length of the first 33 bytes of every
// cryptogram input.
var commonElements = []struct {
	tag   cryptogram.Tag
	bytes int
}{
	{0x9F02, 6},
	{0x9F03, 6},
	{0x9F1A, 2},
	{0x95, 5},
	{0x5F2A, 2},
	{0x9A, 3},
	{0x9C, 1},
	{0x9F37, 4},
	{0x82, 2},
	{0x9F36, 2},
}

// A tap is one transaction of a published vector, as a caller would send it.
type tap struct {
	name     string
	imk      [16]byte
	profile  *cryptogram.Profile
	option   cryptogram.KeyOption
	pan      string
	psn      string
	objects  []tlv // the elements, in the order of the cryptogram input; 9F10 and 9F26 last
	cvr      []byte
	response cryptogram.Response
	message  []byte // the vector's cryptogram input, not padded
	arpc     []byte
	// foreignIAD: the vector's issuer application data is of another version,
	// so only the derivation and the message are proved.
	foreignIAD bool
}

func (tp *tap) element(tag cryptogram.Tag) []byte {
	for _, o := range tp.objects {
		if o.tag == tag {
			return o.value
		}
	}
	return nil
}

// with is a copy with one element replaced.
func (tp tap) with(tag cryptogram.Tag, value []byte) tap {
	tp.objects = slices.Clone(tp.objects)
	for i := range tp.objects {
		if tp.objects[i].tag == tag {
			tp.objects[i].value = value
		}
	}
	return tp
}

// request goes the whole way from field 55 to a request.
func (tp *tap) request() (cryptogram.Request, error) {
	return tp.requestFrom(field55(tp.objects))
}

func (tp *tap) requestFrom(f55 []byte) (cryptogram.Request, error) {
	var r cryptogram.Request
	card, err := cryptogram.ParseField55(f55)
	if err != nil {
		return r, err
	}
	if tp.cvr != nil {
		if err := card.SetCVR(tp.cvr); err != nil {
			return r, err
		}
	}
	pan, err := cryptogram.ParsePAN(tp.pan)
	if err != nil {
		return r, err
	}
	var psn cryptogram.PSN
	if tp.psn != "" {
		if psn, err = cryptogram.ParsePSN(tp.psn); err != nil {
			return r, err
		}
	}
	if err := cryptogram.NewRequest(&card, pan, psn, tp.psn != "", tp.profile, tp.option, &r); err != nil {
		return r, err
	}
	r.Response = tp.response
	return r, nil
}

// plan is the request's plan; for a foreign IAD it skips the checks.
func (tp *tap) plan(p *cryptogram.Plan) error {
	if tp.foreignIAD {
		r, err := tp.uncheckedRequest()
		if err != nil {
			return err
		}
		cryptogram.BuildUnchecked(&r, tp.profile, p)
		return nil
	}
	r, err := tp.request()
	if err != nil {
		return err
	}
	return cryptogram.BuildPlan(&r, p)
}

// uncheckedRequest borrows the row of the version that the IAD names.
func (tp *tap) uncheckedRequest() (cryptogram.Request, error) {
	other := *tp
	card, err := cryptogram.ParseField55(field55(tp.objects))
	if err != nil {
		return cryptogram.Request{}, err
	}
	scheme := tp.profile.Scheme
	if card.IAD().Bytes[0] == 0x0F {
		scheme = cryptogram.SchemeCCD
	}
	if other.profile, _, err = cryptogram.SelectProfile(scheme, card.IAD()); err != nil {
		return cryptogram.Request{}, err
	}
	r, err := other.request()
	r.Profile = tp.profile.ID
	return r, err
}

// status runs the tap and returns what became of the comparison and of the
// ARPC. An error is a refusal before anything is computed.
func (tp *tap) status(t testing.TB) (mac, arpc cryptogram.StepStatus, err error) {
	t.Helper()
	var p cryptogram.Plan
	if err := tp.plan(&p); err != nil {
		return 0, 0, err
	}
	mac, arpc = run(t, tp.imk, &p)
	return mac, arpc, nil
}

func run(t testing.TB, imk [16]byte, p *cryptogram.Plan) (mac, arpc cryptogram.StepStatus) {
	t.Helper()
	if err := cryptogram.Validate(p, false); err != nil {
		t.Fatalf("a built plan does not validate: %v", err)
	}
	var o cryptogram.Outcome
	if err := software.Execute(imk, p, &o); err != nil {
		t.Fatalf("executing a built plan: %v", err)
	}
	if o.Steps[0].Bytes != [8]byte{} {
		t.Fatal("a comparison revealed bytes")
	}
	return o.Steps[0].Status, o.Steps[1].Status
}
