package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// TokenRestrictCmd binds and restricts a token.
type TokenRestrictCmd struct {
	TokenFlags `embed:""`
	ActFlags   `embed:""`

	Device       string   `help:"The only device, as taps name it." placeholder:"ID"`
	Channel      []string `help:"The only channels: contactless-pos, contact-pos, atm, ecommerce, transit." placeholder:"NAME"`
	Currency     []string `help:"The only currencies, ISO 4217 numeric." placeholder:"NNN"`
	MCC          []string `name:"mcc" help:"The only merchant category codes." placeholder:"NNNN"`
	Merchant     []string `help:"The only merchants, as taps name them." placeholder:"ID"`
	TerminalType string   `help:"The only terminal types (tag 9F35), one byte each." placeholder:"HEX"`
	AmountCap    uint64   `help:"The largest amount of one transaction, in minor units." placeholder:"MINOR"`
	Lift         bool     `help:"Lift every restriction."`
}

// Help says who may, and that it replaces.
func (*TokenRestrictCmd) Help() string {
	return "Needs role operator or security-officer. What is given replaces the whole restriction that there was. A tap that does not say where " +
		"it comes from does not satisfy a restriction. A token that is not known yet is registered. " + panHelp
}

// Run shows or acts.
func (c *TokenRestrictCmd) Run(std streams, file contextFile) error {
	r, err := c.restriction()
	if err != nil {
		return err
	}
	t, err := c.token(std)
	if err != nil {
		return err
	}
	return c.run(std, file, roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (*tapsealv1.Effect, proto.Message, error) {
		out, err := a.Restrict(ctx, &tapsealv1.RestrictRequest{Token: t, Restriction: r, Reason: c.Reason, DryRun: c.dryRun()})
		return out.GetEffect(), out, err
	})
}

// restriction reads the flags. Nothing at all must be meant.
func (c *TokenRestrictCmd) restriction() (*tapsealv1.Restriction, error) {
	r := &tapsealv1.Restriction{
		DeviceId: c.Device, Currencies: c.Currency, MerchantCategoryCodes: c.MCC, MerchantIds: c.Merchant, AmountCap: c.AmountCap,
	}
	for _, name := range c.Channel {
		channel, err := readChannel(name)
		if err != nil {
			return nil, err
		}
		r.Channels = append(r.Channels, channel)
	}
	var err error
	if r.TerminalTypes, err = hex.DecodeString(c.TerminalType); err != nil {
		return nil, errors.New("--terminal-type must be an even number of hexadecimal digits")
	}
	switch empty := proto.Size(r) == 0; {
	case empty && !c.Lift:
		return nil, errors.New("no restriction is given (hint: --lift lifts what there is)")
	case !empty && c.Lift:
		return nil, errors.New("--lift excludes every restriction")
	}
	return r, nil
}

// channels are the names of channels, as people write them.
func channels() map[string]tapsealv1.Channel {
	names := make(map[string]tapsealv1.Channel)
	for n, name := range tapsealv1.Channel_name {
		if n != 0 {
			names[word(name, "CHANNEL_")] = tapsealv1.Channel(n)
		}
	}
	return names
}

func readChannel(name string) (tapsealv1.Channel, error) {
	all := channels()
	if c, ok := all[name]; ok {
		return c, nil
	}
	return 0, fmt.Errorf("unknown channel (hint: one of %s)", strings.Join(slices.Sorted(maps.Keys(all)), ", "))
}
