package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/user"
	"time"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/postgres"
)

// A StateReport says how the state and the journal of a stopped daemon fit.
type StateReport struct {
	Engine     string `json:"engine"`     // embedded or postgres
	Sequence   uint64 `json:"sequence"`   // this daemon's last commit, as the state has it
	Recorded   uint64 `json:"recorded"`   // and as the journal does
	Older      bool   `json:"older"`      // the daemon does not start on it
	Generation uint32 `json:"generation"` // how often an older state was accepted
	Raise      uint16 `json:"raise"`      // of the last time
	FloorDate  string `json:"floor_date"` // YYMMDD of the last time, empty for none
	Stops      int    `json:"stops"`      // BIN ranges and keys that are stopped
}

// Acceptance is what an operator accepts an older state with.
type Acceptance struct {
	// Raise is how many ATCs above the highest known one of each token may have
	// been accepted since: up to there nothing is accepted.
	Raise uint16
	// FloorDate: a token that the state does not know is accepted only with a
	// later transaction date.
	FloorDate time.Time
	// FloorsRaised: another daemon of the same state has accepted already, with
	// its floors; only this one's commits are accepted.
	FloorsRaised bool
	Reason       string
}

// A stateBench is the state of a daemon that does not run.
type stateBench struct {
	journal      *audit.Journal
	engine       *engineDoor
	certificates *certificates
	dir          string
	kind         string
}

// openBench opens journal and state, which fails while the daemon runs.
func openBench(ctx context.Context, cfg *config.Daemon, log *slog.Logger) (_ *stateBench, err error) {
	b := &stateBench{dir: cfg.Journal.Dir, kind: engineEmbedded}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.journal, err = audit.Open(cfg.Journal.Dir, audit.Options{Log: log}); err != nil {
		return nil, fmt.Errorf("journal.dir: %w (hint: stop the daemon first)", err)
	}
	if cfg.State.Postgres.Used() {
		b.kind = enginePostgres
	}
	if cfg.State.Postgres.Vault {
		if b.certificates, err = openCertificates(ctx, cfg, log); err != nil {
			return nil, err
		}
	} else {
		b.certificates = &certificates{}
	}
	b.engine, err = openState(ctx, &cfg.State, b.journal.ID(), b.certificates.vault, log)
	return b, err
}

func (b *stateBench) close() error {
	var errs []error
	if b.engine != nil {
		errs = append(errs, b.engine.Close())
	}
	if b.journal != nil {
		errs = append(errs, b.journal.Close())
	}
	if b.certificates != nil {
		b.certificates.close()
	}
	return errors.Join(errs...)
}

func (b *stateBench) report(ctx context.Context) (*StateReport, state.Control, *state.Rules, error) {
	r := &StateReport{Engine: b.kind}
	var err error
	if r.Recorded, err = audit.LastStateSequence(b.dir); err != nil {
		return nil, state.Control{}, nil, fmt.Errorf("journal.dir: %w", err)
	}
	if r.Sequence, err = b.engine.Sequence(ctx); err != nil {
		return nil, state.Control{}, nil, fmt.Errorf("state: %w", err)
	}
	control, err := b.engine.Control(ctx)
	if err != nil {
		return nil, control, nil, fmt.Errorf("state: %w", err)
	}
	rules, err := state.ParseRules(control.Document)
	if err != nil {
		return nil, control, nil, fmt.Errorf("state: %w", err)
	}
	r.Older = r.Sequence < r.Recorded
	r.Generation, r.Raise, r.Stops = rules.Generation, rules.Raise, len(rules.Stops)
	if rules.FloorDate != 0 {
		r.FloorDate = fmt.Sprintf("%06x", rules.FloorDate)
	}
	return r, control, rules, nil
}

// InspectState says how state and journal fit. The daemon must not run.
func InspectState(ctx context.Context, cfg *config.Daemon, log *slog.Logger) (r *StateReport, err error) {
	b, err := openBench(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r, _, _, err = b.report(ctx)
	return r, err
}

// AcceptState accepts a state that is older than the journal. What was accepted
// since it was saved is not known any more, so floors are raised: below them
// nothing is accepted. It is recorded before and after, and gives the state
// afterwards.
func AcceptState(ctx context.Context, cfg *config.Daemon, a Acceptance, log *slog.Logger) (r *StateReport, err error) {
	b, err := openBench(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	before, control, rules, err := b.report(ctx)
	if err != nil {
		return nil, err
	}
	if !a.FloorsRaised {
		rules.Restored(a.Raise, bcdDate(a.FloorDate))
	}
	record := audit.Record{
		Principal: localUser(), Action: audit.ActionAcceptState, Reason: a.Reason,
		Subject: fmt.Sprintf("commit %d of %d", before.Sequence, before.Recorded),
	}
	err = act(ctx, b.journal, record, func(ctx context.Context) (string, error) {
		if !a.FloorsRaised {
			var err error
			if control.Document, err = rules.Marshal(); err != nil {
				return "", err
			}
			if _, err := b.engine.SetControl(ctx, control); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("generation %d, counters raised by %d, floor date %06x", rules.Generation, rules.Raise, rules.FloorDate),
			b.engine.AcceptRegression(ctx, before.Recorded)
	})
	if err != nil {
		return nil, err
	}
	r, _, _, err = b.report(ctx)
	return r, err
}

// localUser is who typed the command, as far as the system knows.
func localUser() string {
	u, err := user.Current()
	if err != nil {
		return "local"
	}
	return "local:" + u.Username
}

// bcdDate is YYMMDD as BCD.
func bcdDate(t time.Time) uint32 {
	bcd := func(n int) uint32 { return uint32(n/10%10)<<4 | uint32(n%10) } //nolint:gosec // two digits
	y, m, d := t.Date()
	return bcd(y)<<16 | bcd(int(m))<<8 | bcd(d)
}

// MigrateState brings the database to this version's schema, or only lists what
// it would do. The list is empty for the embedded engine, and where nothing is
// to be done.
func MigrateState(ctx context.Context, cfg *config.Daemon, apply bool, log *slog.Logger) (names []string, err error) {
	if !cfg.State.Postgres.Used() {
		return nil, nil
	}
	c := &certificates{}
	if cfg.State.Postgres.Vault {
		if c, err = openCertificates(ctx, cfg, log); err != nil {
			return nil, err
		}
	}
	defer c.close()
	o, database, err := databaseOptions(ctx, &cfg.State.Postgres, [16]byte{}, c.vault, log)
	if err != nil {
		return nil, err
	}
	if database != nil {
		defer database.Close()
	}
	do := postgres.Pending
	if apply {
		do = postgres.Migrate
	}
	list, err := do(ctx, o)
	for _, m := range list {
		names = append(names, fmt.Sprintf("%04d %s", m.Version, m.Name))
	}
	return names, configError("state.postgres.connection", err)
}
