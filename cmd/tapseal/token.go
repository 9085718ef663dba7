package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

const roleSecurityOfficer = "security-officer"

// TokenCmd administers what is known of tokens, devices, BIN ranges and keys.
type TokenCmd struct {
	Show     TokenShowCmd     `cmd:"" help:"Show what is known of a token or device, or whether a BIN range or key is stopped."`
	Suspend  TokenSuspendCmd  `cmd:"" help:"Stop a token, device, BIN range or key, on every instance."`
	Resume   TokenResumeCmd   `cmd:"" help:"Let it go on."`
	Delete   TokenDeleteCmd   `cmd:"" help:"Stop a token or device for good."`
	Restrict TokenRestrictCmd `cmd:"" help:"Bind a token to a device, and say where it may be used."`
	Reset    TokenResetCmd    `cmd:"" help:"Forget the counters of a token whose card was reissued."`
	Stops    TokenStopsCmd    `cmd:"" help:"List the BIN ranges and keys that are stopped."`
}

// ActFlags are what every act has.
type ActFlags struct {
	Reason string `help:"Why, for the journal; required." placeholder:"TEXT"`
	Apply  bool   `help:"Do it. Without this only what would change is shown."`
	JSON   bool   `help:"Print one JSON object."`
}

// dryRun is the request's field.
func (f *ActFlags) dryRun() *bool { return proto.Bool(!f.Apply) }

// TokenShowCmd shows a target.
type TokenShowCmd struct {
	TargetFlags `embed:""`
	JSON        bool `help:"Print one JSON object."`
}

// Help says who may.
func (*TokenShowCmd) Help() string {
	return "Needs role operator, security-officer or auditor. " + panHelp
}

// Run asks and prints.
func (c *TokenShowCmd) Run(std streams, file contextFile) error {
	t, err := c.target(std)
	if err != nil {
		return err
	}
	var out *tapsealv1.ShowResponse
	err = file.administration(roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (err error) {
		out, err = a.Show(ctx, &tapsealv1.ShowRequest{Target: t})
		return err
	})
	if err != nil {
		return err
	}
	return printMessage(std.out, out, c.JSON, func(w io.Writer) { writeState(w, out.GetState()) })
}

// TokenSuspendCmd stops a target.
type TokenSuspendCmd struct {
	TargetFlags `embed:""`
	ActFlags    `embed:""`
}

// Help says who may, and what it does.
func (*TokenSuspendCmd) Help() string {
	return "Needs role operator or security-officer. Every verification on every instance that begins after the answer is INVALID, " +
		"whatever its cryptogram. A token that is not known yet is registered as suspended. " + panHelp
}

// Run shows or acts.
func (c *TokenSuspendCmd) Run(std streams, file contextFile) error {
	t, err := c.target(std)
	if err != nil {
		return err
	}
	return c.run(std, file, roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (*tapsealv1.Effect, proto.Message, error) {
		out, err := a.Suspend(ctx, &tapsealv1.SuspendRequest{Target: t, Reason: c.Reason, DryRun: c.dryRun()})
		return out.GetEffect(), out, err
	})
}

// TokenResumeCmd undoes TokenSuspendCmd.
type TokenResumeCmd struct {
	TargetFlags `embed:""`
	ActFlags    `embed:""`
}

// Help says who may.
func (*TokenResumeCmd) Help() string {
	return "Needs role operator or security-officer. A BIN range is named as when it was stopped: \"tapseal token stops\" lists them. " + panHelp
}

// Run shows or acts.
func (c *TokenResumeCmd) Run(std streams, file contextFile) error {
	t, err := c.target(std)
	if err != nil {
		return err
	}
	return c.run(std, file, roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (*tapsealv1.Effect, proto.Message, error) {
		out, err := a.Resume(ctx, &tapsealv1.ResumeRequest{Target: t, Reason: c.Reason, DryRun: c.dryRun()})
		return out.GetEffect(), out, err
	})
}

// TokenDeleteCmd deletes a token or device.
type TokenDeleteCmd struct {
	TargetFlags `embed:""`
	ActFlags    `embed:""`
}

// Help says who may, and that there is no way back.
func (*TokenDeleteCmd) Help() string {
	return "Needs role security-officer. There is no way back: a deleted token or device stays so. " + panHelp
}

// Run shows or acts.
func (c *TokenDeleteCmd) Run(std streams, file contextFile) error {
	t, err := c.target(std)
	if err != nil {
		return err
	}
	return c.run(std, file, roleSecurityOfficer, func(ctx context.Context, a tapsealv1.AdminServiceClient) (*tapsealv1.Effect, proto.Message, error) {
		out, err := a.Delete(ctx, &tapsealv1.DeleteRequest{Target: t, Reason: c.Reason, DryRun: c.dryRun()})
		return out.GetEffect(), out, err
	})
}

// TokenResetCmd forgets counters.
type TokenResetCmd struct {
	TokenFlags `embed:""`
	ActFlags   `embed:""`
	Floor      uint32 `help:"No counter up to this one is accepted afterwards (default: ${default}, none)." default:"0" placeholder:"ATC"`
}

// Help says who may, and what it opens.
func (*TokenResetCmd) Help() string {
	return "Needs role security-officer. For a card that was reissued under the same account and sequence number and counts from 1 again. " +
		"What was accepted before and is above --floor can be accepted once more, so do it only when the old card is stopped. " + panHelp
}

// Run shows or acts.
func (c *TokenResetCmd) Run(std streams, file contextFile) error {
	t, err := c.token(std)
	if err != nil {
		return err
	}
	return c.run(std, file, roleSecurityOfficer, func(ctx context.Context, a tapsealv1.AdminServiceClient) (*tapsealv1.Effect, proto.Message, error) {
		out, err := a.ResetWindow(ctx, &tapsealv1.ResetWindowRequest{Token: t, FloorAtc: c.Floor, Reason: c.Reason, DryRun: c.dryRun()})
		return out.GetEffect(), out, err
	})
}

// run does an act and prints its effect.
func (f *ActFlags) run(std streams, file contextFile, role string, do func(context.Context, tapsealv1.AdminServiceClient) (*tapsealv1.Effect, proto.Message, error)) error {
	if f.Reason == "" {
		return errNoReason
	}
	var effect *tapsealv1.Effect
	var out proto.Message
	err := file.administration(role, func(ctx context.Context, a tapsealv1.AdminServiceClient) (err error) {
		effect, out, err = do(ctx, a)
		return err
	})
	if err != nil {
		return err
	}
	return printMessage(std.out, out, f.JSON, func(w io.Writer) { f.writeEffect(w, effect) })
}

// writeEffect says what changed or would, then how it is.
func (f *ActFlags) writeEffect(w io.Writer, e *tapsealv1.Effect) {
	before, after := stateLines(e.GetBefore()), stateLines(e.GetAfter())
	switch {
	case e.GetApplied():
		_, _ = fmt.Fprintln(w, "done")
	case f.Apply:
		_, _ = fmt.Fprintln(w, "nothing to do: it is so already")
	default:
		_, _ = fmt.Fprintln(w, "nothing was done (--apply does it); it would be")
	}
	if b := e.GetBefore(); b.GetTokenRef() != "" && b.GetStatus() == tapsealv1.TokenStatus_TOKEN_STATUS_UNSPECIFIED {
		_, _ = fmt.Fprintln(w, "nothing was known of this token: are PAN and sequence number right?")
	}
	for i, l := range after {
		if was := before[i]; was.value != l.value {
			_, _ = fmt.Fprintf(w, "%s:\t%s\t(was %s)\n", l.name, l.value, orNone(was.value))
		} else if l.value != "" {
			_, _ = fmt.Fprintf(w, "%s:\t%s\n", l.name, l.value)
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// TokenStopsCmd lists standing stops.
type TokenStopsCmd struct {
	JSON bool `help:"Print one JSON object."`
}

// Help says who may.
func (*TokenStopsCmd) Help() string {
	return "Needs role operator, security-officer or auditor. Tokens and devices are not in the list: there can be very many."
}

// Run asks and prints.
func (c *TokenStopsCmd) Run(std streams, file contextFile) error {
	var out *tapsealv1.ListStopsResponse
	err := file.administration(roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (err error) {
		out, err = a.ListStops(ctx, &tapsealv1.ListStopsRequest{})
		return err
	})
	if err != nil {
		return err
	}
	return printMessage(std.out, out, c.JSON, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, "STOPPED\tSINCE\tBY\tWHY")
		for _, s := range out.GetStops() {
			_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", targetName(s.GetTarget()),
				s.GetState().GetChangedAt().AsTime().Format(time.RFC3339), s.GetState().GetChangedBy(), s.GetState().GetReason())
		}
	})
}

// A stateLine is one thing that is known; an empty value is nothing.
type stateLine struct{ name, value string }

func writeState(w io.Writer, s *tapsealv1.TokenState) {
	for _, l := range stateLines(s) {
		if l.value != "" {
			_, _ = fmt.Fprintf(w, "%s:\t%s\n", l.name, l.value)
		}
	}
}

// stateLines are always the same names in the same order.
func stateLines(s *tapsealv1.TokenState) []stateLine {
	lines := []stateLine{
		{"status", word(s.GetStatus().String(), "TOKEN_STATUS_")},
		{"changed by", s.GetChangedBy()},
		{"changed at", ""},
		{"reason", s.GetReason()},
		{"token_ref", s.GetTokenRef()},
		{"highest atc", number(s.GetHighestAtc())},
		{"accepted in window", number(s.GetAcceptedInWindow())},
		{"floor atc", number(s.GetFloorAtc())},
		{"failures", number(s.GetFailures())},
	}
	if at := s.GetChangedAt(); at != nil {
		lines[2].value = at.AsTime().Format(time.RFC3339)
	}
	return append(lines, restrictionLines(s.GetRestriction())...)
}

func restrictionLines(r *tapsealv1.Restriction) []stateLine {
	var channels, types []string
	for _, c := range r.GetChannels() {
		channels = append(channels, word(c.String(), "CHANNEL_"))
	}
	for _, t := range r.GetTerminalTypes() {
		types = append(types, fmt.Sprintf("%02x", t))
	}
	limit := ""
	if r.GetAmountCap() != 0 {
		limit = fmt.Sprint(r.GetAmountCap())
	}
	return []stateLine{
		{"device", r.GetDeviceId()},
		{"channels", strings.Join(channels, " ")},
		{"currencies", strings.Join(r.GetCurrencies(), " ")},
		{"merchant categories", strings.Join(r.GetMerchantCategoryCodes(), " ")},
		{"merchants", strings.Join(r.GetMerchantIds(), " ")},
		{"terminal types", strings.Join(types, " ")},
		{"amount cap", limit},
	}
}

func number(n uint32) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
