package main

import (
	"fmt"
	"io"
	"strings"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

const (
	verdictValid   = "VALID"
	verdictInvalid = "INVALID"
)

// An answer is what the service said, in the names of its contract without
// their prefixes.
type answer struct {
	Verdict                  string   `json:"verdict"`
	Reasons                  []string `json:"reasons"`
	Profile                  string   `json:"profile,omitempty"`
	KeySet                   string   `json:"key_set,omitempty"`
	KeyVersion               uint32   `json:"key_version,omitempty"`
	Freshness                string   `json:"freshness,omitempty"`
	Repeated                 bool     `json:"repeated"`
	AcceptedBefore           bool     `json:"accepted_before"`
	Retry                    string   `json:"retry,omitempty"`
	RetryAfterMS             uint32   `json:"retry_after_ms,omitempty"`
	ARPC                     string   `json:"arpc,omitempty"`
	IssuerAuthenticationData string   `json:"issuer_authentication_data,omitempty"`
}

func newAnswer(v *tapsealv1.Verification) answer {
	a := answer{
		Verdict: strings.TrimPrefix(v.GetVerdict().String(), "VERDICT_"),
		Reasons: []string{},
		Profile: v.GetProfile(), KeySet: v.GetKeySet(), KeyVersion: v.GetKeyVersion(),
		Repeated: v.GetRepeated(), AcceptedBefore: v.GetAcceptedBefore(), RetryAfterMS: v.GetRetryAfterMs(),
	}
	for _, r := range v.GetReasons() {
		a.Reasons = append(a.Reasons, strings.TrimPrefix(r.String(), "REASON_"))
	}
	if f := v.GetFreshness(); f != tapsealv1.Freshness_FRESHNESS_UNSPECIFIED {
		a.Freshness = strings.TrimPrefix(f.String(), "FRESHNESS_")
	}
	if r := v.GetRetry(); r != tapsealv1.RetryClass_RETRY_CLASS_UNSPECIFIED {
		a.Retry = strings.TrimPrefix(r.String(), "RETRY_CLASS_")
	}
	return a
}

// status is the exit status: nothing but VALID is success.
func (a answer) status() int {
	switch a.Verdict {
	case verdictValid:
		return statusValid
	case verdictInvalid:
		return statusInvalid
	default:
		return statusOther
	}
}

func (a answer) print(w io.Writer, asJSON bool) error {
	text := a.text()
	if asJSON {
		var err error
		if text, err = render(a); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("printing the answer: %w", err)
	}
	return nil
}

// text is one line for each thing that the service said.
func (a answer) text() string {
	var b strings.Builder
	for _, l := range [][2]string{
		{"verdict", a.Verdict},
		{"reasons", strings.Join(a.Reasons, ", ")},
		{"profile", a.Profile},
		{"key_set", a.KeySet},
		{"key_version", number(a.KeyVersion)},
		{"freshness", a.Freshness},
		{"repeated", yes(a.Repeated)},
		{"accepted_before", yes(a.AcceptedBefore)},
		{"retry", a.Retry},
		{"retry_after_ms", number(a.RetryAfterMS)},
		{"arpc", a.ARPC},
		{"issuer_authentication_data", a.IssuerAuthenticationData},
	} {
		if l[1] != "" {
			fmt.Fprintf(&b, "%s: %s\n", l[0], l[1])
		}
	}
	return b.String()
}

// yes is empty for no, which goes without saying.
func yes(is bool) string {
	if is {
		return "yes"
	}
	return ""
}
