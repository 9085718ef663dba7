package main

import (
	"strings"
	"testing"
	"time"

	"github.com/tapseal/tapseal/audit"
)

func TestJournalShowsWhoActedAndWhoWasRefused(t *testing.T) {
	at := time.Unix(1_700_000_000, 0).UTC()
	const detail = "3 refused since the last such record, the latest: PERMISSION_DENIED: the policy does not allow this method"
	for want, r := range map[string]audit.Record{
		`7 2023-11-14T22:13:20Z administration call refused by gateway spiffe://t/g subject="tapseal.v1.AdminService/GetStatus" detail="` + detail + `"`: {
			Action: audit.ActionCall, Outcome: audit.OutcomeRefused, Caller: "spiffe://t/g", Principal: "gateway", Subject: "tapseal.v1.AdminService/GetStatus", Detail: detail,
		},
		`7 2023-11-14T22:13:20Z administration call refused by spiffe://t/g subject="none"`: {
			Action: audit.ActionCall, Outcome: audit.OutcomeRefused, Caller: "spiffe://t/g", Subject: "none",
		},
		`7 2023-11-14T22:13:20Z administration connect refused by nobody known subject="admin"`: {
			Action: audit.ActionConnect, Outcome: audit.OutcomeRefused, Subject: "admin",
		},
		`7 2023-11-14T22:13:20Z administration act-1 reload-policy done by the service itself reason="start"`: {
			Action: audit.ActionReloadPolicy, Outcome: audit.OutcomeDone, RequestID: "act-1", Reason: "start",
		},
		`7 2023-11-14T22:13:20Z administration act-1 recycle-workers done by alice spiffe://t/a`: {
			Action: audit.ActionRecycleWorkers, Outcome: audit.OutcomeDone, RequestID: "act-1", Caller: "spiffe://t/a", Principal: "alice",
		},
	} {
		r.Sequence, r.Time, r.Kind = 7, at, audit.KindAdministration
		if got := newJournalLine(&r).text(); strings.TrimSuffix(got, "\n") != want {
			t.Errorf("got  %swant %s", got, want)
		}
	}
}
