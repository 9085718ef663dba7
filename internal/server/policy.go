package server

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/observability"
)

// A keeper puts policies in force and records each one.
type keeper struct {
	live    *authz.Live
	file    string
	journal *audit.Journal
	metrics *observability.Metrics
	log     *slog.Logger
}

// begin records the policy that the service starts with, so that the journal
// alone says which one was in force at any time.
func (k *keeper) begin(ctx context.Context) error {
	p := k.live.Policy()
	r := audit.Record{Action: audit.ActionReloadPolicy, Subject: p.Digest().String(), Reason: "start"}
	err := act(ctx, k.journal, r, func(context.Context) (string, error) {
		return fmt.Sprintf("%d principals, %d grants", len(p.Principals()), p.Grants()), nil
	})
	k.metrics.PolicyLoaded(err == nil)
	for _, w := range p.Warnings() {
		k.log.Warn("policy", "problem", w.String())
	}
	return err
}

// reload is what SIGHUP does: a file with a fault changes nothing. The file is
// read before the act, so that the journal has its digest before it is in
// force, and in force comes that one and no other.
func (k *keeper) reload(ctx context.Context) {
	r := audit.Record{Reason: "SIGHUP"}
	next, fault := k.live.Try(k.file)
	if fault == nil {
		r.Subject = next.After.String()
	}
	_, err := k.load(ctx, r, func() (authz.Change, error) {
		if fault != nil {
			return authz.Change{}, fault
		}
		return k.live.LoadReviewed(k.file, next.After)
	})
	if !wasDone(err) {
		k.log.Error("the policy stays as it is", "error", err.Error())
	}
}

// load does the act of putting a policy in force. r says who does it, and which
// policy. After errOutcomeNotRecorded the policy is in force.
func (k *keeper) load(ctx context.Context, r audit.Record, do func() (authz.Change, error)) (change authz.Change, err error) {
	r.Action = audit.ActionReloadPolicy
	err = act(ctx, k.journal, r, func(context.Context) (string, error) {
		var err error
		change, err = do()
		return told(&change), err
	})
	k.metrics.PolicyLoaded(wasDone(err))
	switch {
	case err == nil:
		k.log.Info("policy in force", "digest", change.After.String(), "changes", len(change.Lines))
	case wasDone(err):
		k.log.Error("policy in force, but not recorded", "digest", change.After.String(), "changes", len(change.Lines), "error", err.Error())
	}
	return change, err
}

// told is a change as a record can hold it: in full, or digests and a count.
func told(c *authz.Change) string {
	if s := c.String(); len(s) <= audit.MaxFieldBytes {
		return s
	}
	return c.Summary()
}
