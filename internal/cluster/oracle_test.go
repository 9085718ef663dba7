package cluster

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// TestOracle: it has to see each kind of wrong answer, and nothing in right
// ones.
func TestOracle(t *testing.T) {
	valid := &tapsealv1.Verification{Verdict: tapsealv1.Verdict_VERDICT_VALID}
	repeated := &tapsealv1.Verification{Verdict: tapsealv1.Verdict_VERDICT_VALID, Repeated: true}
	invalid := func(r tapsealv1.Reason) *tapsealv1.Verification {
		return &tapsealv1.Verification{Verdict: tapsealv1.Verdict_VERDICT_INVALID, Reasons: []tapsealv1.Reason{r}}
	}
	replayed := invalid(tapsealv1.Reason_REASON_CRYPTOGRAM_REPLAYED)
	mismatch := invalid(tapsealv1.Reason_REASON_CRYPTOGRAM_MISMATCH)
	unknown := &tapsealv1.Verification{
		Verdict: tapsealv1.Verdict_VERDICT_UNKNOWN, Retry: tapsealv1.RetryClass_RETRY_CLASS_BACKOFF,
	}
	type answer struct {
		request int
		v       *tapsealv1.Verification // nil: none came
	}
	for name, tt := range map[string]struct {
		wrong   bool
		answers []answer
		want    string // part of the violation; empty is none
	}{
		"accepted":                   {answers: []answer{{0, valid}}},
		"a duplicate":                {answers: []answer{{0, valid}, {1, replayed}}},
		"repeated":                   {answers: []answer{{0, valid}, {0, repeated}, {1, replayed}, {1, replayed}}},
		"the first answer is lost":   {answers: []answer{{0, nil}, {0, repeated}, {1, replayed}}},
		"the first one is UNKNOWN":   {answers: []answer{{0, unknown}, {1, replayed}, {0, repeated}}},
		"a wrong one":                {wrong: true, answers: []answer{{0, mismatch}, {1, unknown}, {1, mismatch}}},
		"double accept":              {answers: []answer{{0, valid}, {1, valid}}, want: "double accept"},
		"double accept as a repeat":  {answers: []answer{{0, valid}, {1, nil}, {1, repeated}}, want: "double accept"},
		"accepted twice":             {answers: []answer{{0, valid}, {0, valid}}, want: "VALID twice"},
		"a repeat of nothing":        {answers: []answer{{0, repeated}}, want: "repeat at the first attempt"},
		"lost":                       {answers: []answer{{0, valid}, {1, replayed}, {0, replayed}}, want: "acceptance is lost"},
		"a genuine one refused":      {answers: []answer{{0, unknown}, {0, replayed}}, want: "no other request"},
		"refused, then accepted":     {answers: []answer{{0, nil}, {1, replayed}, {1, valid}}, want: "VALID after it was refused"},
		"a wrong one accepted":       {wrong: true, answers: []answer{{0, valid}, {1, mismatch}}, want: "wrong cryptogram is VALID"},
		"a right one does not match": {answers: []answer{{0, mismatch}, {1, valid}}, want: "refused with"},
		"none accepted":              {answers: []answer{{0, nil}, {1, replayed}, {0, replayed}}, want: "0 of 2 requests accepted"},
		"no answer":                  {answers: []answer{{0, valid}, {1, unknown}}, want: "without an answer"},
		"no verdict":                 {answers: []answer{{0, valid}, {1, &tapsealv1.Verification{}}}, want: "no verdict"},
	} {
		t.Run(name, func(t *testing.T) {
			o := NewOracle()
			n := 1
			for _, a := range tt.answers {
				n = max(n, a.request+1)
			}
			c := newCryptogram(Transaction{Wrong: tt.wrong}, "c", n)
			for _, a := range tt.answers {
				o.begin(c.Requests[a.request])
				if a.v == nil {
					o.unanswered(c.Requests[a.request], codes.Unavailable)
				} else {
					o.answered(c.Requests[a.request], a.v)
				}
			}
			o.conclude([]*Cryptogram{c})
			some, _ := o.Violations()
			got := strings.Join(some, "\n")
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("violations %q, want %q", got, tt.want)
			}
		})
	}
}
