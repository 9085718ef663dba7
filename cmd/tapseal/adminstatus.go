package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// roleOperator is whose context the commands for operators look for.
const roleOperator = "operator"

// StatusCmd shows the status.
type StatusCmd struct {
	JSON bool `help:"Print one JSON object."`
}

// Help says what the exit status means.
func (*StatusCmd) Help() string {
	return "Exit status: 0 the service takes taps, 1 it does not, 2 anything else. Needs role operator or auditor."
}

// Run asks and prints.
func (c *StatusCmd) Run(std streams, file contextFile) error {
	var s *tapsealv1.GetStatusResponse
	err := file.administration(roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (err error) {
		s, err = a.GetStatus(ctx, &tapsealv1.GetStatusRequest{})
		return err
	})
	if err != nil {
		return err
	}
	if err := printMessage(std.out, s, c.JSON, func(w io.Writer) { writeStatus(w, s) }); err != nil {
		return err
	}
	if !s.GetReady() {
		return statusError(statusInvalid)
	}
	return nil
}

// printMessage prints a message as JSON on one line or as text for people.
func printMessage(w io.Writer, m proto.Message, asJSON bool, text func(io.Writer)) error {
	if asJSON {
		b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s\n", b)
		}
		if err != nil {
			return fmt.Errorf("printing the answer: %w", err)
		}
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	text(t)
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	return nil
}

func writeStatus(w io.Writer, s *tapsealv1.GetStatusResponse) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s:\t%s\n", name, fmt.Sprintf(format, args...))
	}
	if s.GetReady() {
		line("ready", "yes")
	} else {
		line("ready", "no: %s", s.GetNotReadyReason())
	}
	line("version", "%s, since %s", s.GetVersion(), s.GetStartedAt().AsTime().Format(time.RFC3339))
	line("policy", "%x, since %s", s.GetPolicyDigest(), s.GetPolicyLoadedAt().AsTime().Format(time.RFC3339))
	line("certificate", "until %s", s.GetCertificateExpiresAt().AsTime().Format(time.RFC3339))
	line("journal", "record %d, %s", s.GetJournal().GetLastSequence(), map[bool]string{true: "writable", false: "NOT writable"}[s.GetJournal().GetWritable()])
	st := s.GetState()
	line("state", "%s, %s, generation %d, %d stops", st.GetEngine(), map[bool]string{true: "answers", false: "does NOT answer: " + st.GetProblem()}[st.GetReachable()], st.GetGeneration(), st.GetStops())
	line("taps in flight", "%d", s.GetTapsInFlight())
	h := s.GetHsm()
	line("hsm", "%d connections, logins %s", h.GetConnections(), word(h.GetLogin().String(), "LOGIN_STATE_"))
	if h.GetHint() != "" {
		line("to do", "%s", h.GetHint())
	}
	for _, k := range h.GetWorkers() {
		line(fmt.Sprintf("worker %d", k.GetSlot()), "%s, %d verifications, %d MiB, %d s old, %d restarts, %d recycles",
			word(k.GetState().String(), "WORKER_STATE_"), k.GetServed(), k.GetResidentBytes()>>20, k.GetAgeSeconds(), k.GetRestarts(), k.GetRecycles())
		if k.GetLastError() != "" {
			line(fmt.Sprintf("worker %d error", k.GetSlot()), "%s: %s", k.GetLastErrorAt().AsTime().Format(time.RFC3339), k.GetLastError())
		}
	}
}

// word is an enum's name without its prefix, as people write it.
func word(name, prefix string) string {
	w := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", "-"))
	if w == "unspecified" {
		return "not known"
	}
	return w
}
