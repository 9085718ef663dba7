package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// EventsCmd follows events.
type EventsCmd struct {
	After   uint64   `help:"Sequence number of the last event that is known already (default: ${default}, the beginning)." default:"0" placeholder:"N"`
	FromNow bool     `help:"Begin at the end of the journal."`
	Kind    []string `help:"Only these kinds: decision, replay, failure, limit, refusal, trouble, act, journal." placeholder:"KIND"`
	Follow  bool     `help:"Wait for more at the end of the journal; --until-now ends there." default:"true" negatable:"until-now"`
	JSON    bool     `help:"Print one JSON object on each line."`
}

// Help says who sees what, and how to go on.
func (*EventsCmd) Help() string {
	return "A caller sees its own taps; an operator everything but taps without a finding; a security officer and an auditor everything. " +
		"The number at the beginning of a line is the cursor of --after, which goes on after that event. It counts in the journal of one instance."
}

// Run prints events until the end or an interrupt.
func (c *EventsCmd) Run(std streams, file contextFile) error {
	kinds, err := c.kinds()
	switch {
	case err != nil:
		return err
	case c.FromNow && c.After != 0:
		return errors.New("--after and --from-now exclude each other")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err = file.administrationUntil(ctx, roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) error {
		s, err := a.WatchEvents(ctx, &tapsealv1.WatchEventsRequest{
			AfterSequence: c.After, Kinds: kinds, FromNow: c.FromNow, UntilNow: !c.Follow,
		})
		if err != nil {
			return err
		}
		return c.print(std.out, s)
	})
	if ctx.Err() != nil {
		return nil // an interrupt is how this command ends
	}
	return err
}

func (c *EventsCmd) print(w io.Writer, s tapsealv1.AdminService_WatchEventsClient) error {
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range m.GetEvents() {
			if err := c.line(w, e); err != nil {
				return fmt.Errorf("printing events: %w", err)
			}
		}
	}
}

func (c *EventsCmd) line(w io.Writer, e *tapsealv1.Event) error {
	text := []byte(eventText(e))
	if c.JSON {
		var err error
		if text, err = (protojson.MarshalOptions{UseProtoNames: true}).Marshal(e); err != nil {
			return err
		}
		text = append(text, '\n')
	}
	_, err := w.Write(text)
	return err
}

// eventText is one line for people; what others wrote is quoted.
func eventText(e *tapsealv1.Event) string {
	head := fmt.Sprintf("%d %s %s", e.GetSequence(), e.GetTime().AsTime().Format(time.RFC3339Nano), word(e.GetKind().String(), "EVENT_KIND_"))
	switch e.GetKind() {
	case tapsealv1.EventKind_EVENT_KIND_JOURNAL:
		return head + " the journal was opened after a crash\n"
	case tapsealv1.EventKind_EVENT_KIND_ACT:
		who := "the service itself"
		if e.GetCaller() != "" {
			who = e.GetPrincipal() + " " + e.GetCaller()
		}
		return fmt.Sprintf("%s %s %s %s by %s%s%s\n", head, e.GetRequestId(), e.GetAction(), e.GetOutcome(), who,
			quotedField("subject", e.GetSubject()), quotedField("why", e.GetWhy()))
	default:
	}
	fields := []string{head, e.GetCaller(), e.GetRequestId(), strings.TrimPrefix(e.GetVerdict().String(), "VERDICT_")}
	if len(e.GetReasons()) > 0 {
		var reasons []string
		for _, r := range e.GetReasons() {
			reasons = append(reasons, strings.TrimPrefix(r.String(), "REASON_"))
		}
		fields = append(fields, strings.Join(reasons, ","))
	}
	if e.GetFreshness() != tapsealv1.Freshness_FRESHNESS_UNSPECIFIED {
		fields = append(fields, strings.TrimPrefix(e.GetFreshness().String(), "FRESHNESS_"))
	}
	fields = append(fields, e.GetProfile())
	if e.GetKey() != nil {
		fields = append(fields, keyName(e.GetKey()))
	}
	if e.GetTokenRef() != "" {
		fields = append(fields, "token="+e.GetTokenRef())
	}
	return strings.Join(fields, " ") + "\n"
}

func quotedField(name, value string) string {
	if value == "" {
		return ""
	}
	return fmt.Sprintf(" %s=%q", name, value)
}

func (c *EventsCmd) kinds() (list []tapsealv1.EventKind, err error) {
	names := make(map[string]tapsealv1.EventKind)
	for n, name := range tapsealv1.EventKind_name {
		if n != 0 {
			names[word(name, "EVENT_KIND_")] = tapsealv1.EventKind(n)
		}
	}
	for _, name := range c.Kind {
		kind, ok := names[name]
		if !ok {
			return nil, fmt.Errorf("unknown kind %q (hint: one of %s)", name, strings.Join(slices.Sorted(maps.Keys(names)), ", "))
		}
		list = append(list, kind)
	}
	return list, nil
}
