package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// patience is how much longer than the service's own deadline the command
// waits for its answer.
const patience = 5 * time.Second

// VerifyCmd verifies one tap.
type VerifyCmd struct {
	Input *string `arg:"" optional:"" help:"\"-\" reads the tap as JSON from standard input, as \"tapseal tap --json\" prints it."`

	Field55   *string        `name:"field55" help:"Field 55 of the authorisation request, BER-TLV." placeholder:"HEX"`
	PAN       *string        `name:"pan" help:"Account number or token." placeholder:"DIGITS"`
	PSN       *string        `name:"psn" help:"PAN sequence number, two digits." placeholder:"NN"`
	Profile   *string        `help:"Profile, where the card's data does not say it (interac-cvn133, pboc-tdes)." placeholder:"NAME"`
	CVR       *string        `name:"cvr" help:"Card verification results, for pboc-tdes." placeholder:"HEX"`
	Purpose   *string        `help:"authorise (default) or advice." placeholder:"PURPOSE"`
	Device    *string        `help:"Device that tapped, for tokens that are bound to one." placeholder:"ID"`
	Channel   *string        `help:"contactless-pos, contact-pos, atm, ecommerce or transit." placeholder:"NAME"`
	MCC       *string        `name:"mcc" help:"Merchant category code." placeholder:"NNNN"`
	Merchant  *string        `help:"The acquirer's name of the merchant." placeholder:"ID"`
	ARC       *string        `name:"arc" help:"Authorisation response code: make the response cryptogram by method 1. 3030 approves." placeholder:"HEX4"`
	CSU       *string        `name:"csu" help:"Card status update: make the response cryptogram by method 2. 00820000 approves." placeholder:"HEX8"`
	PAD       *string        `name:"pad" help:"Proprietary authentication data beside the card status update." placeholder:"HEX"`
	RequestID *string        `name:"request-id" help:"Name of the request: the same name and tap once more is a repetition; default: a random one." placeholder:"NAME"`
	Timeout   *time.Duration `help:"Time after which the verdict is UNKNOWN; default: the service's." placeholder:"DURATION"`
	JSON      bool           `help:"Print one JSON object."`
}

// Help says what scripts need.
func (*VerifyCmd) Help() string {
	return "Exit status: 0 VALID, 1 INVALID, 2 anything else.\n\n" +
		"Other users of this machine can see a command line, and an account number on it. For cards that are not demo " +
		"cards give JSON on standard input: strings field55, pan, psn, profile, cvr, arc, csu, pad, purpose, request_id, " +
		"device, channel, mcc, merchant; atc is allowed, and read from field55 all the same.\n\n" +
		"With --arc or --csu the tap is verified first and, if it is VALID, its response cryptogram is asked for under the same request id."
}

// Run asks the service and prints its answer.
func (c *VerifyCmd) Run(std streams, file contextFile) error {
	v, err := c.input(std)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	answer, err := c.ask(ctx, file, v)
	if err != nil {
		return err
	}
	if err := answer.print(std.out, c.JSON); err != nil {
		return err
	}
	if status := answer.status(); status != statusValid {
		return statusError(status)
	}
	return nil
}

// input reads flags and, if asked, standard input.
func (c *VerifyCmd) input(std streams) (verification, error) {
	var in verifyInput
	if c.Input != nil {
		if *c.Input != "-" {
			return verification{}, errors.New("the only argument is \"-\": JSON on standard input")
		}
		if err := readInput(std.in, &in); err != nil {
			return verification{}, err
		}
	}
	err := in.merge(map[string]*string{
		"field55": c.Field55, "pan": c.PAN, "psn": c.PSN, "profile": c.Profile, "cvr": c.CVR,
		"arc": c.ARC, "csu": c.CSU, "pad": c.PAD, "purpose": c.Purpose, "request_id": c.RequestID,
		"device": c.Device, "channel": c.Channel, "mcc": c.MCC, "merchant": c.Merchant,
	})
	if err != nil {
		return verification{}, err
	}
	if in.requestID == "" {
		in.requestID = "cli-" + strings.ToLower(rand.Text())
	}
	v, err := in.decode()
	if err != nil {
		return v, err
	}
	if c.Timeout == nil {
		return v, nil
	}
	ms := c.Timeout.Milliseconds()
	if ms < 1 || ms > 10_000 {
		return v, errors.New("timeout must be 1ms to 10s")
	}
	v.tap.TimeoutMs = uint32(ms)
	return v, nil
}

// ask verifies, and asks for the response cryptogram of a tap that is VALID.
func (c *VerifyCmd) ask(ctx context.Context, file contextFile, v verification) (answer, error) {
	where, err := file.load()
	if err != nil {
		return answer{}, err
	}
	client, conn, err := dial(where)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(v.tap.GetTimeoutMs())*time.Millisecond+patience)
	defer cancel()
	verified, err := client.VerifyCryptogram(ctx, &tapsealv1.VerifyCryptogramRequest{Tap: v.tap})
	if err != nil {
		return answer{}, file.callError(where, err)
	}
	got := newAnswer(verified.GetVerification())
	if v.respond == nil || got.Verdict != verdictValid {
		return got, nil
	}
	response, err := client.Respond(ctx, v.respond)
	if err != nil {
		return answer{}, file.callError(where, err)
	}
	// The second call repeats the first one, and only that is what it says of the
	// tap: what is new of the tap the first answer has.
	if second := newAnswer(response.GetVerification()); second.Verdict != verdictValid {
		return second, nil
	}
	got.ARPC = upperHex(response.GetArpc())
	got.IssuerAuthenticationData = upperHex(response.GetIssuerAuthenticationData())
	if got.ARPC == "" {
		return answer{}, errors.New("the service answered VALID without a response cryptogram")
	}
	return got, nil
}

// render is JSON on one line.
func render(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("printing the answer: %w", err)
	}
	return string(b) + "\n", nil
}
