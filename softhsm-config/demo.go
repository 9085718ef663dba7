package softhsmconfig

import (
	_ "embed"
	"encoding/hex"
	"fmt"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/phone"
)

// Published test keys, as sources print them. They are known to everybody:
// whoever imports one into a token that serves real cards has no secret.
const (
	// issuer key of the tests of knovichikhin/pyemv (tests/test_cvn_hsm.py).
	pyemvIssuerKey = "0123456789ABCDEFFEDCBA9876543210"
	// issuer key of the EMVCo examples A.3.1 to A.3.4, as quoted by
	// edwest19/SecretArqc.
	emvcoIssuerKey = "9E15204313F7318ACB79B90BD986AD29"
	// issuer key of the PBOC example on CSDN, freud_lv/24518351.
	pbocIssuerKey = "C4D689158AD9FB9D23105B91CE046D0E"
)

// assignmentsYAML is the assignments file of development mode.
//
//go:embed assignments.yaml
var assignmentsYAML []byte

// A demoSet is one key set of the demo token: a published key and the profiles
// that it is bound to.
type demoSet struct {
	name     string
	scheme   cryptogram.Scheme
	hexValue string
	cards    []demoCard
}

// A demoCard is one card on the demo phone: a published test account number,
// with a sequence number for each profile.
type demoCard struct{ profile, pan, psn string }

// demoSets are one key set for each scheme. The account numbers are in
// assignments.yaml with their sources.
func demoSets() []demoSet {
	const visa, mastercard = "4111111111111111", "5123456789012345"
	return []demoSet{
		{"visa-demo", cryptogram.SchemeVisa, pyemvIssuerKey, []demoCard{
			{"visa-cvn10", visa, "00"}, {"visa-cvn18", visa, "01"}, {"visa-cvn22", visa, "02"},
		}},
		{"mastercard-demo", cryptogram.SchemeMastercard, pyemvIssuerKey, []demoCard{
			{"mastercard-cvn16", mastercard, "00"},
			{"mastercard-cvn17", mastercard, "01"},
			{"mastercard-cvn20", mastercard, "02"},
			{"mastercard-cvn21", mastercard, "03"},
		}},
		{"interac-demo", cryptogram.SchemeInterac, pyemvIssuerKey, []demoCard{
			{"interac-cvn133", "1234567890123456", "00"},
		}},
		{"ccd-demo", cryptogram.SchemeCCD, emvcoIssuerKey, []demoCard{
			{"emv-ccd", "5413339000006165", "00"},
		}},
		{"pboc-demo", cryptogram.SchemePBOC, pbocIssuerKey, []demoCard{
			{"pboc-tdes", "6210220110002707355", "01"},
		}},
	}
}

// value is the set's key, K1 ‖ K2.
func (s demoSet) value() (v [16]byte, err error) {
	b, err := hex.DecodeString(s.hexValue)
	if err != nil || len(b) != len(v) {
		return v, fmt.Errorf("demo key of %s: want %d hexadecimal digits", s.name, 2*len(v))
	}
	return [16]byte(b), nil
}

// profiles are the ids that the set is bound to: all of its scheme.
func (s demoSet) profiles() []cryptogram.ProfileID {
	var ids []cryptogram.ProfileID
	for _, p := range cryptogram.Profiles() {
		if p.Scheme == s.scheme {
			ids = append(ids, p.ID)
		}
	}
	return ids
}

// DemoCards provisions the cards of the demo phone from the published issuer
// keys, one card for each profile. This happens in software, as in a
// personalisation bureau; the token never gives a card key away.
func DemoCards() ([]phone.Card, error) {
	var cards []phone.Card
	for _, set := range demoSets() {
		issuer, err := set.value()
		if err != nil {
			return nil, err
		}
		for _, c := range set.cards {
			card, err := phone.Provision(issuer, c.profile, c.pan, c.psn)
			if err != nil {
				return nil, fmt.Errorf("demo card: %w", err)
			}
			cards = append(cards, card)
		}
	}
	return cards, nil
}
