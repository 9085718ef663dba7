package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/cryptogram"
)

// JournalCmd reads the journal.
type JournalCmd struct {
	Show JournalShowCmd `cmd:"" help:"Print the records of a journal directory, from the first to the last."`
}

// JournalShowCmd prints a journal.
type JournalShowCmd struct {
	Dir  string `arg:"" help:"Directory of the journal, or of a copy."`
	JSON bool   `help:"Print one JSON object on each line."`
}

// Help says what the reader checks.
func (*JournalShowCmd) Help() string {
	return "Works without the service. Every checksum and the hash chain are checked; damage is an error after the records " +
		"before it, and exit status 2. A write that the service has not completed yet ends the output without an error."
}

// journalLine is the JSON form of a record: names instead of numbers.
type journalLine struct {
	Sequence   uint64    `json:"sequence"`
	Time       time.Time `json:"time"`
	Kind       string    `json:"kind"`
	Caller     string    `json:"caller,omitempty"`
	RequestID  string    `json:"request_id,omitempty"`
	Method     string    `json:"method,omitempty"`
	Purpose    string    `json:"purpose,omitempty"`
	Assignment string    `json:"assignment,omitempty"`
	Profile    string    `json:"profile,omitempty"`
	KeySet     string    `json:"key_set,omitempty"`
	KeyVersion uint32    `json:"key_version,omitempty"`
	Verdict    string    `json:"verdict,omitempty"`
	Reasons    []string  `json:"reasons,omitempty"`
	Attempts   uint8     `json:"attempts,omitempty"`
	CutBytes   uint64    `json:"cut_bytes,omitempty"`
	Action     string    `json:"action,omitempty"`
	Outcome    string    `json:"outcome,omitempty"`
	Principal  string    `json:"principal,omitempty"`
	Subject    string    `json:"subject,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Detail     string    `json:"detail,omitempty"`
}

// Run prints the records and then whatever is wrong with them.
func (c *JournalShowCmd) Run(std streams) error {
	w := bufio.NewWriter(std.out)
	err := c.show(w)
	if flushed := w.Flush(); err == nil && flushed != nil {
		err = fmt.Errorf("printing the journal: %w", flushed)
	}
	return err
}

func (c *JournalShowCmd) show(w io.Writer) error {
	var faults []error
	for record, err := range audit.ReadDir(c.Dir) {
		if err != nil {
			var torn *audit.TornTailError
			if !errors.As(err, &torn) {
				faults = append(faults, err)
			}
			continue
		}
		if err := c.line(w, newJournalLine(&record)); err != nil {
			return fmt.Errorf("printing the journal: %w", err)
		}
	}
	return errors.Join(faults...)
}

func (c *JournalShowCmd) line(w io.Writer, l journalLine) error {
	text := l.text()
	if c.JSON {
		var err error
		if text, err = render(l); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, text)
	return err
}

func newJournalLine(r *audit.Record) journalLine {
	l := journalLine{
		Sequence: r.Sequence, Time: r.Time, Caller: r.Caller, RequestID: r.RequestID,
		Assignment: r.Assignment, KeySet: r.KeySet, KeyVersion: r.KeyVersion,
		Attempts: r.Attempts, CutBytes: r.CutBytes,
	}
	switch r.Kind {
	case audit.KindRecovered:
		l.Kind = "recovered"
		return l
	case audit.KindAdministration:
		l.Kind = "administration"
		l.Action, l.Outcome = r.Action.String(), r.Outcome.String()
		l.Principal, l.Subject, l.Reason, l.Detail = r.Principal, r.Subject, r.Reason, r.Detail
		return l
	default:
		l.Kind = "decision"
	}
	l.Method = methodName(r.Method)
	l.Purpose = strings.TrimPrefix(tapsealv1.Purpose(r.Purpose).String(), "PURPOSE_")
	l.Verdict = strings.TrimPrefix(tapsealv1.Verdict(r.Verdict).String(), "VERDICT_")
	if p, ok := cryptogram.LookupProfile(cryptogram.ProfileID(r.Profile)); ok {
		l.Profile = p.Name
	}
	for _, reason := range r.Reasons {
		if reason != 0 {
			l.Reasons = append(l.Reasons, strings.TrimPrefix(tapsealv1.Reason(reason).String(), "REASON_"))
		}
	}
	return l
}

func methodName(m audit.Method) string {
	switch m {
	case audit.MethodVerify:
		return "VerifyCryptogram"
	case audit.MethodStream:
		return "VerifyCryptograms"
	case audit.MethodRespond:
		return "Respond"
	default:
		return fmt.Sprintf("method %d", m)
	}
}

// text is one line for people.
func (l journalLine) text() string {
	head := fmt.Sprintf("%d %s %s", l.Sequence, l.Time.Format(time.RFC3339Nano), l.Kind)
	if l.Kind == "recovered" {
		return fmt.Sprintf("%s: cut %d uncommitted bytes\n", head, l.CutBytes)
	}
	if l.Kind == "administration" {
		return l.actText(head)
	}
	return fmt.Sprintf("%s %s %s %s %s %s/%d %s %s %s\n", head, l.Caller, l.RequestID, l.Method,
		l.Profile, l.KeySet, l.KeyVersion, l.Purpose, l.Verdict, strings.Join(l.Reasons, ","))
}

// who acted, or would have.
func (l journalLine) who() string {
	switch {
	case l.Caller != "" && l.Principal != "":
		return l.Principal + " " + l.Caller
	case l.Caller != "":
		return l.Caller
	case l.Outcome == audit.OutcomeRefused.String():
		return "nobody known"
	case l.Principal != "":
		return l.Principal
	}
	return "the service itself"
}

// actText is one line for an act; what others wrote is quoted.
func (l journalLine) actText(head string) string {
	words := []string{head}
	if l.RequestID != "" { // what was refused has none: it is one record
		words = append(words, l.RequestID)
	}
	s := strings.Join(append(words, l.Action, l.Outcome, "by", l.who()), " ")
	for _, f := range []struct{ name, value string }{{"subject", l.Subject}, {"reason", l.Reason}, {"detail", l.Detail}} {
		if f.value != "" {
			s += fmt.Sprintf(" %s=%q", f.name, f.value)
		}
	}
	return s + "\n"
}
