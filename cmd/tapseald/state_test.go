package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/server"
)

func TestStateReportForPeople(t *testing.T) {
	lines := func(r server.StateReport) []string {
		var b strings.Builder
		writeReport(&b, &r)
		return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	}
	for _, c := range []struct {
		report server.StateReport
		want   string
	}{
		{server.StateReport{}, "state       as new as the journal (commit 0, recorded 0)"},
		{server.StateReport{Older: true, Sequence: 1, Recorded: 2}, "state       OLDER than the journal: the daemon does not start on it (commit 1, recorded 2)"},
		{
			server.StateReport{Older: true, Empty: true, Recorded: 2},
			"state       EMPTY beside a journal with commits, so OLDER than the journal: the daemon does not start on it (commit 0, recorded 2)",
		},
		{server.StateReport{JournalGone: true, Sequence: 3}, "state       WITHOUT ITS JOURNAL, which is empty: the daemon does not start (commit 3, recorded 0)"},
	} {
		if got := lines(c.report)[1]; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	got := lines(server.StateReport{
		Engine: "embedded", Problem: "it is so", ActsLeftOut: 7, ActsProblem: "damage",
		Acts: []server.LostAct{{Time: at, Action: "suspend", Subject: "bin 999999", By: "operator", Reason: "line\nbreak"}},
	})
	if diff := cmp.Diff([]string{
		"problem     it is so",
		"acts since then, which the state may not know: repeat those that still hold",
		"  7 earlier ones are left out: tapseal journal show has them",
		`  2026-05-06T07:08:09Z suspend "bin 999999" by "operator": "line\nbreak"`,
		"there may be more acts, because the journal could not be read as a whole: damage",
	}, got[4:]); diff != "" {
		t.Error(diff)
	}
}
