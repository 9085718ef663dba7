package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// panHelp says why a PAN should not stand on the command line.
const panHelp = "Other users of this machine can see a command line, and an account number on it: \"--pan -\" reads it from standard input, " +
	"and does not show it if that is a terminal."

// TokenFlags name a token.
type TokenFlags struct {
	PAN string `name:"pan" help:"Account number or token; \"-\" reads it from standard input." placeholder:"PAN"`
	PSN string `name:"psn" help:"PAN sequence number, two digits; 00 where the card has none. Required beside --pan." placeholder:"NN"`
}

// TargetFlags name what an act is about: exactly one of token, device, BIN range
// and key.
type TargetFlags struct {
	TokenFlags `embed:""`
	Device     string `help:"Device, as taps name it." placeholder:"ID"`
	BIN        string `name:"bin" help:"BIN range: 476173, or 47617300-47617399." placeholder:"RANGE"`
	Key        string `help:"Key set, or one version of it." placeholder:"SET[/VERSION]"`
}

// maxPANLine bounds a line on standard input that should be a PAN.
const maxPANLine = 64

var (
	errNoToken   = errors.New("--pan is required (hint: \"--pan -\" reads it from standard input)")
	errNoPANLine = errors.New("standard input must begin with a line that is an account number")
	errPSNAlone  = errors.New("--psn goes with --pan")
	// A number left out would be 00, and an act on 00 would look done while the
	// card with another one goes on.
	errNoPSN = errors.New("--psn is required beside --pan: 00 where the card has none")
)

// token reads the name. Errors never hold what was typed.
func (f *TokenFlags) token(std streams) (*tapsealv1.TokenName, error) {
	switch {
	case f.PAN == "":
		return nil, errNoToken
	case f.PSN == "":
		return nil, errNoPSN
	case f.PAN == "-":
		pan, err := readPAN(std.in)
		return &tapsealv1.TokenName{Pan: pan, Psn: f.PSN}, err
	}
	return &tapsealv1.TokenName{Pan: f.PAN, Psn: f.PSN}, nil
}

func readPAN(in io.Reader) (string, error) {
	restore, err := hideTyping(in)
	if err != nil {
		return "", fmt.Errorf("reading the account number: %w", err)
	}
	if restore != nil {
		defer restore()
	}
	line, err := bufio.NewReader(io.LimitReader(in, maxPANLine)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the account number: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errNoPANLine
	}
	return line, nil
}

// target reads which of them is meant.
func (f *TargetFlags) target(std streams) (*tapsealv1.Target, error) {
	given := 0
	for _, v := range []string{f.PAN, f.Device, f.BIN, f.Key} {
		if v != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return nil, errors.New("exactly one of --pan, --device, --bin and --key is needed")
	case f.PSN != "" && f.PAN == "":
		return nil, errPSNAlone
	case f.Device != "":
		return &tapsealv1.Target{What: &tapsealv1.Target_DeviceId{DeviceId: f.Device}}, nil
	case f.BIN != "":
		return &tapsealv1.Target{What: &tapsealv1.Target_BinRange{BinRange: f.BIN}}, nil
	case f.Key != "":
		key, err := readKeyName(f.Key)
		return &tapsealv1.Target{What: &tapsealv1.Target_Key{Key: key}}, err
	}
	token, err := f.token(std)
	return &tapsealv1.Target{What: &tapsealv1.Target_Token{Token: token}}, err
}

func readKeyName(text string) (*tapsealv1.KeyName, error) {
	set, number, versioned := strings.Cut(text, "/")
	key := &tapsealv1.KeyName{KeySet: set}
	if !versioned {
		return key, nil
	}
	version, err := strconv.ParseUint(number, 10, 32)
	if err != nil || version == 0 {
		return nil, errors.New("--key: the version after the slash must be a number from 1")
	}
	key.Version = uint32(version)
	return key, nil
}

// targetName is a target from an answer, which never holds a token.
func targetName(t *tapsealv1.Target) string {
	switch what := t.GetWhat().(type) {
	case *tapsealv1.Target_BinRange:
		return "bin " + what.BinRange
	case *tapsealv1.Target_Key:
		return "key " + keyName(what.Key)
	default:
		return "?"
	}
}

// keyName is SET or SET/VERSION.
func keyName(k *tapsealv1.KeyName) string {
	if k.GetVersion() == 0 {
		return k.GetKeySet()
	}
	return fmt.Sprintf("%s/%d", k.GetKeySet(), k.GetVersion())
}
