package server

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

func wantInvalidArgument(t *testing.T, err error, names string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), names) {
		t.Errorf("got %v %q, want INVALID_ARGUMENT naming %q", s.Code(), s.Message(), names)
	}
}

// visaCase is the profile that most tests use.
func visaCase() profileCase { return profileCases()[1] }

// A badInput is a fault put into a good tap, and what the answer must name.
type badInput struct {
	name  string
	names string
	spoil func(*tapsealv1.Tap)
}

func setField55(change func([]byte) []byte) func(*tapsealv1.Tap) {
	return func(t *tapsealv1.Tap) { t.ChipData = &tapsealv1.Tap_Field55{Field55: change(t.GetField55())} }
}

func appendTLV(hexTLV string) func(*tapsealv1.Tap) {
	return setField55(func(b []byte) []byte { return append(b, unhexFixed(hexTLV)...) })
}

func replaceTLV(old, with string) func(*tapsealv1.Tap) {
	return setField55(func(b []byte) []byte {
		out := bytes.Replace(b, unhexFixed(old), unhexFixed(with), 1)
		if bytes.Equal(out, b) {
			panic("nothing to replace")
		}
		return out
	})
}

func badInputs() []badInput {
	psn := func(s string) func(*tapsealv1.Tap) { return func(t *tapsealv1.Tap) { t.Psn = &s } }
	pan := func(s string) func(*tapsealv1.Tap) { return func(t *tapsealv1.Tap) { t.Pan = s } }
	id := func(s string) func(*tapsealv1.Tap) { return func(t *tapsealv1.Tap) { t.RequestId = s } }
	field := func(b []byte) func(*tapsealv1.Tap) { return setField55(func([]byte) []byte { return b }) }
	return []badInput{
		{"TLV cut short", "9F26", setField55(func(b []byte) []byte { return b[:len(b)-3] })},
		{"length over the end", "9F26", setField55(func(b []byte) []byte { b[len(b)-9] = 0x7F; return b })},
		{"tag cut short", "field 55", setField55(func(b []byte) []byte { return append(b, 0x9F) })},
		{"duplicate tag", "9F36", appendTLV("9F36020001")},
		{"indefinite length", "9F36", replaceTLV("9F3602", "9F3680")},
		{"length of three bytes", "9F36", replaceTLV("9F3602", "9F3683000002")},
		{"wrong length", "9F36", replaceTLV("9F3602001C", "9F360300001C")},
		{"missing tag", "9F36", replaceTLV("9F3602001C", "")},
		{"missing cryptogram", "9F26", setField55(func(b []byte) []byte { return b[:len(b)-11] })},
		{"missing IAD", "9F10", replaceTLV("9F100706011203A0B800", "")},
		{"empty field 55", "field55", field(nil)},
		{"field 55 over 1 KiB", "field55", field(make([]byte, 1025))},
		{"5A differs", "5A", appendTLV("5A081234567890123457")},
		{"57 differs", "57", appendTLV("570B1234567890123457D24122")},
		{"5F34 differs", "5F34", appendTLV("5F340107")},
		{"unknown CVN", "9F10", replaceTLV("9F100706011203A0B800", "9F100706017703A0B800")},
		{"unknown DKI", "9F10", replaceTLV("9F100706011203A0B800", "9F100706991203A0B800")},
		{"IAD too short", "9F10", replaceTLV("9F100706011203A0B800", "9F1003060112")},
		{"PAN missing", "pan", pan("")},
		{"PAN with a letter", "pan", pan("12345678901234x6")},
		{"PAN with an Arabic digit", "pan", pan("12345678901234٣")},
		{"PAN of 11 digits", "pan", pan("12345678901")},
		{"PAN of 20 digits", "pan", pan("12345678901234567890")},
		{"PAN of nobody", "pan", pan("9999999999999999")},
		{"sequence number of one digit", "psn", psn("0")},
		{"sequence number with a letter", "psn", psn("0x")},
		{"empty sequence number", "psn", psn("")},
		{"purpose missing", "purpose", func(t *tapsealv1.Tap) { t.Purpose = 0 }},
		{"purpose unknown", "purpose", func(t *tapsealv1.Tap) { t.Purpose = 77 }},
		{"timeout too long", "timeout_ms", func(t *tapsealv1.Tap) { t.TimeoutMs = 10_001 }},
		{"profile unknown", "profile", func(t *tapsealv1.Tap) { t.Profile = "visa-cvn99" }},
		{"profile of another scheme", "profile", func(t *tapsealv1.Tap) { t.Profile = "emv-ccd" }},
		{"profile other than the card's", "profile", func(t *tapsealv1.Tap) { t.Profile = "visa-cvn10" }},
		{"no card data", "chip_data", func(t *tapsealv1.Tap) { t.ChipData = nil }},
		{"no values", "9F", func(t *tapsealv1.Tap) { t.ChipData = &tapsealv1.Tap_Values{Values: &tapsealv1.ChipData{}} }},
		{"value of wrong length", "9F36", func(t *tapsealv1.Tap) {
			t.ChipData = &tapsealv1.Tap_Values{Values: &tapsealv1.ChipData{ApplicationTransactionCounter: make([]byte, 3)}}
		}},
		{"CVR twice", "card_verification_results", func(t *tapsealv1.Tap) {
			t.CardVerificationResults = make([]byte, 4)
			t.ChipData = &tapsealv1.Tap_Values{Values: &tapsealv1.ChipData{CardVerificationResults: make([]byte, 4)}}
		}},
		{"CVR too long", "card_verification_results", func(t *tapsealv1.Tap) { t.CardVerificationResults = make([]byte, 33) }},
		{"request id missing", "request_id", id("")},
		{"request id too long", "request_id", id(strings.Repeat("x", 65))},
		{"request id with a space", "request_id", id("a b")},
		{"request id with a line feed", "request_id", id("a\nb")},
		{"request id not ASCII", "request_id", id("é")},
	}
}

// planted are the values of the good tap that must appear nowhere: PAN and
// cryptogram in every form in which a program would print them.
func planted(tb testing.TB) []string {
	v := vector(tb, "arqc.json", visaCase().ac)
	ac := unhex(tb, v.Expected["ac"])
	pan := []byte(v.PAN)
	return []string{
		v.PAN, v.PAN[:12], v.PAN[4:], hex.EncodeToString(pan),
		v.Expected["ac"], strings.ToLower(v.Expected["ac"]),
		fmt.Sprint(ac), fmt.Sprint(pan), string(ac), fmt.Sprintf("% x", ac), fmt.Sprintf("%q", ac),
	}
}

func revealed(text string, secrets []string) string {
	for _, s := range secrets {
		if strings.Contains(text, s) {
			return s
		}
	}
	return ""
}

func TestBadInputNamesItsFaultAndShowsNothing(t *testing.T) {
	r := newRig(t, "visa")
	good := field55(visaCase().tap(t, "good"))
	r.want(t, good, tapsealv1.Verdict_VERDICT_VALID, 0)
	secrets := planted(t)
	if revealed(fmt.Sprintf("tap %v", good), secrets) == "" {
		t.Fatal("positive control: printing the request must reveal a planted value")
	}
	for _, c := range badInputs() {
		t.Run(c.name, func(t *testing.T) {
			bad, _ := proto.Clone(good).(*tapsealv1.Tap)
			c.spoil(bad)
			_, err := r.verify(bad)
			wantInvalidArgument(t, err, c.names)
			respond := r.respondError(&tapsealv1.RespondRequest{Tap: bad, Decision: &tapsealv1.RespondRequest_CardStatusUpdate{
				CardStatusUpdate: &tapsealv1.CardStatusUpdate{Csu: make([]byte, 4)},
			}})
			wantInvalidArgument(t, respond, c.names)
			if s := revealed(fmt.Sprint(err, respond), secrets); s != "" {
				t.Errorf("the error reveals a planted value of %d bytes", len(s))
			}
		})
	}
	r.stopQuietly(t)
	if s := revealed(r.log.String(), secrets); s != "" {
		t.Errorf("the log reveals a planted value of %d bytes", len(s))
	}
	if n := len(r.records()); n != 1 {
		t.Errorf("%d records, want 1: malformed requests have no verdict", n)
	}
}

func (r *rig) stopQuietly(t *testing.T) {
	t.Helper()
	_ = r.conn.Close()
	if err := r.end(); err != nil {
		t.Errorf("daemon: %v", err)
	}
}

func TestRespondInput(t *testing.T) {
	r := newRig(t, "visa")
	good := visaCase().tap(t, "respond")
	csu := func(csu, pad int) *tapsealv1.RespondRequest {
		return &tapsealv1.RespondRequest{Tap: good, Decision: &tapsealv1.RespondRequest_CardStatusUpdate{
			CardStatusUpdate: &tapsealv1.CardStatusUpdate{Csu: make([]byte, csu), ProprietaryAuthenticationData: make([]byte, pad)},
		}}
	}
	advice, _ := proto.Clone(good).(*tapsealv1.Tap)
	advice.Purpose = tapsealv1.Purpose_PURPOSE_ADVICE
	adviceReq := csu(4, 0)
	adviceReq.Tap = advice
	declined, _ := proto.Clone(good).(*tapsealv1.Tap)
	declined.GetValues().CryptogramInformationData = []byte{0x00} // AAC
	declinedReq := csu(4, 0)
	declinedReq.Tap = declined
	for _, c := range []struct {
		name, names string
		req         *tapsealv1.RespondRequest
	}{
		{"the card declined", "9F27", declinedReq},
		{"no tap", "tap", &tapsealv1.RespondRequest{Decision: csu(4, 0).GetDecision()}},
		{"no decision", "decision", &tapsealv1.RespondRequest{Tap: good}},
		{"short CSU", "csu", csu(3, 0)},
		{"long proprietary data", "proprietary_authentication_data", csu(4, 9)},
		{"advice", "purpose", adviceReq},
		{"long response code", "authorisation_response_code", &tapsealv1.RespondRequest{
			Tap: good, Decision: &tapsealv1.RespondRequest_AuthorisationResponseCode{AuthorisationResponseCode: make([]byte, 3)},
		}},
	} {
		t.Run(c.name, func(t *testing.T) { wantInvalidArgument(t, r.respondError(c.req), c.names) })
	}
}

// TestUndecodableRequest sends a PAN that is no UTF-8, which gRPC itself
// refuses before any handler.
func TestUndecodableRequest(t *testing.T) {
	r := newRig(t, "visa")
	bad := visaCase().tap(t, "x")
	wire, err := proto.Marshal(&tapsealv1.VerifyCryptogramRequest{Tap: bad})
	if err != nil {
		t.Fatal(err)
	}
	wire = bytes.Replace(wire, []byte(bad.GetPan()), append([]byte(bad.GetPan()[:15]), 0xFF), 1)
	err = r.conn.Invoke(context.Background(), tapsealv1.CryptogramService_VerifyCryptogram_FullMethodName,
		&rawMessage{wire}, &rawMessage{}, rawCodec())
	wantInvalidArgument(t, err, "request")
	if s := revealed(err.Error(), []string{bad.GetPan()[:15]}); s != "" {
		t.Error("the error reveals the PAN")
	}
}

func TestKeyStateAndAvailability(t *testing.T) {
	r := newRig(t, "visa")
	good := field55(visaCase().tap(t, "k"))
	withDKI := func(dki string) *tapsealv1.Tap {
		tap, _ := proto.Clone(good).(*tapsealv1.Tap)
		replaceTLV("9F100706011203A0B800", "9F100706"+dki+"1203A0B800")(tap)
		return tap
	}
	r.want(t, withDKI("E2"), tapsealv1.Verdict_VERDICT_INVALID, tapsealv1.Reason_REASON_KEY_NOT_ACTIVE)
	v := r.want(t, withDKI("E3"), tapsealv1.Verdict_VERDICT_UNKNOWN, tapsealv1.Reason_REASON_KEY_UNAVAILABLE)
	if v.GetRetry() != tapsealv1.RetryClass_RETRY_CLASS_OPERATOR {
		t.Errorf("retry class %v", v.GetRetry())
	}
}
