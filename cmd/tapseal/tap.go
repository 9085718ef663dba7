package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/phone"
	"github.com/tapseal/tapseal/internal/shell"
)

// TapCmd plays a phone at a terminal.
type TapCmd struct {
	Profile  string `help:"Which card to tap with: ${enum} (default: ${default})." default:"visa-cvn18" enum:"visa-cvn10,visa-cvn18,visa-cvn22,mastercard-cvn16,mastercard-cvn17,mastercard-cvn20,mastercard-cvn21,interac-cvn133,emv-ccd,pboc-tdes" placeholder:"NAME"`
	Amount   uint64 `help:"Amount in minor units of the currency (default: ${default})." default:"1250" placeholder:"MINOR"`
	Currency uint16 `help:"Currency, ISO 4217 numeric (default: ${default})." default:"978" placeholder:"NNN"`
	Country  uint16 `help:"Country of the terminal, ISO 3166-1 numeric (default: ${default})." default:"276" placeholder:"NNN"`
	JSON     bool   `help:"Print one JSON object, which \"tapseal verify -\" reads."`
}

// Help says whose keys these are.
func (*TapCmd) Help() string {
	return "The phone lies in the development directory that the context names. Its card keys are software keys made from " +
		"published test keys, as a phone's are; its message builder is another one than the verifier's. " +
		"Each tap uses up one value of the card's transaction counter."
}

// tapOutput is the JSON form of a tap: what a caller of verify needs, in the
// names of verify's JSON input.
type tapOutput struct {
	Field55 string `json:"field55"`
	PAN     string `json:"pan"`
	PSN     string `json:"psn"`
	Profile string `json:"profile"`
	CVR     string `json:"cvr,omitempty"`
	ATC     string `json:"atc"`
}

// Run makes one tap.
func (c *TapCmd) Run(std streams, file contextFile) error {
	out, err := c.tap(file)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(std.out).Encode(out)
	}
	_, err = fmt.Fprint(std.out, out.text(file))
	return err
}

func (c *TapCmd) tap(file contextFile) (tapOutput, error) {
	where, err := file.load()
	if err != nil {
		return tapOutput{}, err
	}
	if where.Phone == "" {
		return tapOutput{}, fmt.Errorf("context %s has no phone (hint: only development mode has one: tapseald dev --dir DIR)", file)
	}
	p, err := phone.Open(where.Phone)
	if err != nil {
		return tapOutput{}, err
	}
	terminal := phone.Terminal{
		AmountMinor: c.Amount, Currency: c.Currency, Country: c.Country, Time: time.Now(),
	}
	if _, err := rand.Read(terminal.UN[:]); err != nil {
		return tapOutput{}, fmt.Errorf("making an unpredictable number: %w", err)
	}
	card, tap, err := p.Tap(c.Profile, terminal)
	if errors.Is(err, phone.ErrCounterSpent) {
		return tapOutput{}, fmt.Errorf("%w (hint: a new development directory has new cards)", err)
	}
	if err != nil {
		return tapOutput{}, err
	}
	return tapOutput{
		Field55: upperHex(tap.Field55), PAN: card.PAN, PSN: card.PSN, Profile: card.Profile,
		CVR: upperHex(tap.CVR), ATC: fmt.Sprintf("%04X", tap.ATC),
	}, nil
}

// text is the form for people, with the command that verifies the tap.
func (t tapOutput) text(file contextFile) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%-8s %s\n", name+":", value)
		}
	}
	line("field55", t.Field55)
	line("pan", t.PAN)
	line("psn", t.PSN)
	line("profile", t.Profile)
	line("cvr", t.CVR)
	line("atc", t.ATC)
	b.WriteString("\nverify it:\n  tapseal verify")
	flag := func(name, value string) {
		if value != "" {
			b.WriteString(" --" + name + " " + shell.Quote(value))
		}
	}
	flag("context", string(file))
	flag("field55", t.Field55)
	flag("pan", t.PAN)
	flag("psn", t.PSN)
	flag("profile", t.Profile)
	flag("cvr", t.CVR)
	flag(t.approval())
	b.WriteString("\n")
	return b.String()
}

// approval is the flag with which the issuer approves: the response code 00 in
// ASCII, or the card status update that the EMV examples use.
func (t tapOutput) approval() (flag, value string) {
	p, ok := cryptogram.ProfileByName(t.Profile)
	switch {
	case !ok:
		return "", ""
	case p.ARPC == cryptogram.ARPCMethod2:
		return "csu", "00820000"
	default:
		return "arc", "3030"
	}
}

func upperHex(b []byte) string { return strings.ToUpper(hex.EncodeToString(b)) }
