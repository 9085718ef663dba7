package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tapseal/tapseal/audit"
)

const (
	refusedEvery    = 10 * time.Second // between two records of one kind
	maxRefusedKinds = 1024             // kinds that are told apart
)

// A refusedKind is whose refusals are counted together: those of one caller at
// one method or listener. All callers without an identity are one.
type refusedKind struct {
	action  audit.Action
	caller  string // URI name, empty for no identity
	subject string // method or listener
}

// refusedRest counts what came when there were too many kinds to tell apart.
var refusedRest = refusedKind{action: audit.ActionCall}

type refusedCount struct {
	principal string
	cause     string    // of the latest one
	since     uint64    // refusals that are on no record yet
	last      time.Time // of the last record; zero is none
}

// A refusedJournal records who was refused what. The first refusal of a kind is
// recorded at once; those of the next ten seconds are one more record with
// their number, so that nobody can fill the disk by asking. Callers do not wait
// for it: a refusal needs no record to be one.
type refusedJournal struct {
	journal *audit.Journal
	log     *slog.Logger
	now     func() time.Time

	mu    sync.Mutex
	kinds map[refusedKind]*refusedCount

	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup
}

func newRefusedJournal(j *audit.Journal, log *slog.Logger) *refusedJournal {
	r := &refusedJournal{
		journal: j, log: log, now: time.Now, kinds: make(map[refusedKind]*refusedCount),
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	r.done.Go(r.run)
	return r
}

// close records what is left. Nothing may be noted any more.
func (r *refusedJournal) close() {
	if r == nil {
		return
	}
	close(r.stop)
	r.done.Wait()
	r.write(r.take(true))
}

// note counts n refusals. It is cheap and may be called on no refusedJournal.
func (r *refusedJournal) note(k refusedKind, principal, cause string, n int) {
	if r == nil || n <= 0 {
		return
	}
	r.mu.Lock()
	c := r.kinds[k]
	if c == nil && len(r.kinds) >= maxRefusedKinds && !r.forget() {
		k, principal, cause = refusedRest, "", cause+" (of more callers and methods than are told apart)"
		c = r.kinds[k]
	}
	if c == nil {
		c = &refusedCount{}
		r.kinds[k] = c
	}
	first := c.since == 0
	c.since += uint64(n) //nolint:gosec // positive
	c.principal, c.cause = principal, cause
	r.mu.Unlock()
	if !first {
		return
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// forget makes room by dropping the kinds of which everything is on record, and
// whose time is over.
func (r *refusedJournal) forget() bool {
	now := r.now()
	for k, c := range r.kinds {
		if c.since == 0 && now.Sub(c.last) >= refusedEvery {
			delete(r.kinds, k)
		}
	}
	return len(r.kinds) < maxRefusedKinds
}

func (r *refusedJournal) run() {
	for {
		r.write(r.take(false))
		due, stop := r.due()
		select {
		case <-r.stop:
			stop()
			return
		case <-r.wake:
		case <-due:
		}
		stop()
	}
}

// due is when the next count may be recorded: never, if there is none.
func (r *refusedJournal) due() (at <-chan time.Time, stop func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait, now := time.Duration(-1), r.now()
	for _, c := range r.kinds {
		if left := max(0, refusedEvery-now.Sub(c.last)); c.since > 0 && (wait < 0 || left < wait) {
			wait = left
		}
	}
	if wait < 0 {
		return nil, func() {}
	}
	t := time.NewTimer(wait)
	return t.C, func() { t.Stop() }
}

// A refusedRecord is a record, and what it takes from its kind's count.
type refusedRecord struct {
	kind   refusedKind
	since  uint64
	record audit.Record
}

// take makes the records that are due, or all of them.
func (r *refusedJournal) take(all bool) []refusedRecord {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	var out []refusedRecord
	for k, c := range r.kinds {
		if c.since == 0 || !all && !c.last.IsZero() && now.Sub(c.last) < refusedEvery {
			continue
		}
		out = append(out, refusedRecord{k, c.since, audit.Record{
			Time: now, Action: k.action, Outcome: audit.OutcomeRefused, Caller: k.caller, Principal: c.principal, Subject: fit(k.subject),
			Detail: fit(fmt.Sprintf("%d refused since the last such record, the latest: %s", c.since, c.cause)),
		}})
		c.since, c.last = 0, now
	}
	return out
}

// write puts records on disk. What cannot be written is counted again, for the
// record of ten seconds later.
func (r *refusedJournal) write(records []refusedRecord) {
	for i := range records {
		err := recordAct(context.Background(), r.journal, records[i].record)
		if err == nil {
			continue
		}
		r.log.Error("refused calls could not be recorded", "records", len(records)-i, "error", err.Error())
		r.mu.Lock()
		for _, left := range records[i:] {
			if c := r.kinds[left.kind]; c != nil {
				c.since += left.since
			}
		}
		r.mu.Unlock()
		return
	}
}

// refusedCall notes a call that c was refused, unless err is no refusal.
func (r *refusedJournal) refusedCall(c *caller, err error) {
	s := status.Convert(err)
	name, refusal := codeName(s.Code())
	if r == nil || !refusal {
		return
	}
	k, principal, uri := refusedKind{action: audit.ActionCall}, "", ""
	if c != nil {
		k.subject, principal, uri = c.method.String(), c.known(), c.id.uri
	}
	r.noteWho(k, principal, uri, name+": "+s.Message())
}

// refusedConnection notes a connection whose certificate is good and names
// nobody whom the policy knows.
func (r *refusedJournal) refusedConnection(listener string, id *identity, err error) {
	if errors.Is(err, errCrowded) { // a matter of how many, not of who
		return
	}
	name, _ := codeName(codes.Unauthenticated)
	r.noteWho(refusedKind{action: audit.ActionConnect, subject: listener}, "", id.uri, name+": "+err.Error())
}

// noteWho counts one refusal under the caller's name if the policy knows it.
// There is no end of other names, so those are one kind.
func (r *refusedJournal) noteWho(k refusedKind, principal, uri, cause string) {
	if principal != "" {
		k.caller = uri
	} else if uri != "" {
		cause += "; the caller was " + uri
	}
	r.note(k, principal, cause, 1)
}

// codeName is the name of a code that says who may what; others are no refusal.
func codeName(c codes.Code) (name string, refusal bool) {
	switch c {
	case codes.PermissionDenied:
		return "PERMISSION_DENIED", true
	case codes.Unauthenticated:
		return "UNAUTHENTICATED", true
	default:
		return "", false
	}
}
