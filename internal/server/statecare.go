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
	"github.com/tapseal/tapseal/internal/state/embedded"
	"github.com/tapseal/tapseal/internal/state/postgres"
	"github.com/tapseal/tapseal/internal/state/store"
)

// A StateReport says how the state and the journal of a stopped daemon fit.
type StateReport struct {
	Engine   string `json:"engine"`   // embedded or postgres
	Sequence uint64 `json:"sequence"` // this daemon's last commit, as the state has it
	Recorded uint64 `json:"recorded"` // and as the journal does
	Older    bool   `json:"older"`    // the daemon does not start on it
	// LostBy names an instance of which commits are missing, and nobody has
	// accepted that; the daemon does not start, whichever it is.
	LostBy string `json:"lost_by,omitempty"`
	// JournalGone: the journal is empty and the state is not; the daemon does not
	// start.
	JournalGone bool `json:"journal_gone"`
	// Empty: an embedded state that nothing was ever written to, beside a journal
	// with commits. It is Older too.
	Empty bool `json:"empty"`
	// NothingToAccept: the journal is not empty, and the state has all of it.
	NothingToAccept bool   `json:"nothing_to_accept"`
	Problem         string `json:"problem,omitempty"` // why the daemon does not start

	Generation uint32 `json:"generation"` // how often an older state was accepted
	Raise      uint16 `json:"raise"`      // of the last time
	FloorDate  string `json:"floor_date"` // YYMMDD of the last time, empty for none
	Stops      int    `json:"stops"`      // BIN ranges and keys that are stopped
	// Acts stand in the journal after the last record that the state is known to
	// hold: those that still hold must be repeated. They are the last ones, oldest
	// first; ActsLeftOut came before them.
	Acts        []LostAct `json:"acts"`
	ActsLeftOut int       `json:"acts_left_out"`
	ActsProblem string    `json:"acts_problem,omitempty"` // why there may be more than those
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
	// Force raises the floors of a state that is not older than the journal.
	Force  bool
	Reason string
	Apply  bool // false: only look whether it could be done
}

// maxFloorAhead bounds FloorDate: what lies further ahead is a slip that would
// refuse genuine taps until then.
const maxFloorAhead = 48 * time.Hour

var errNotOlder = errors.New("the state is not older than the journal: nothing has to be accepted; --force raises the floors all the same")

// check refuses what cannot be meant. r is the state as it is.
func (a *Acceptance) check(r *StateReport, now time.Time) error {
	switch first := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC); {
	case a.FloorsRaised && r.Engine == engineEmbedded:
		return errors.New("--floors-raised: the state of the embedded engine has no other daemon that could have raised its floors")
	case a.FloorsRaised && r.Generation == 0:
		return errors.New("--floors-raised: no daemon has accepted this database's state yet, so its floors are not raised: leave the flag out")
	case a.FloorsRaised && r.LostBy != "":
		return errors.New("--floors-raised: instance " + r.LostBy + " has lost commits since they were raised the last time: leave the flag out")
	case a.FloorsRaised && a.Force:
		return errors.New("--force raises floors, and --floors-raised does not: only one of them can be meant")
	case !a.FloorsRaised && (a.FloorDate.Before(first) || a.FloorDate.After(now.Add(maxFloorAhead))):
		return errors.New("--floor-date: must not be before 2000-01-01, nor more than two days ahead")
	case a.Apply && r.NothingToAccept && !a.Force:
		return errNotOlder
	}
	return nil
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
		return nil, inUse(fmt.Errorf("journal.dir: %w", err))
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
	return b, inUse(err)
}

// inUse adds what to do where another process is in the way; beside damage it
// would mislead.
func inUse(err error) error {
	if errors.Is(err, audit.ErrLocked) || errors.Is(err, embedded.ErrInUse) {
		return fmt.Errorf("%w (hint: stop the daemon first)", err)
	}
	return err
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
	f, err := b.engine.fit(ctx, b.dir, b.journal.Stats().LastSequence)
	if err != nil {
		return nil, state.Control{}, nil, err
	}
	r.Sequence, r.Recorded, r.Older, r.JournalGone, r.Empty = f.known, f.recorded, f.older(), f.gone(), f.empty()
	r.NothingToAccept = !f.older() && !f.noJournal && f.lost == nil
	if f.lost != nil {
		r.LostBy = f.lost.Instance
	}
	if err := f.err(); err != nil {
		r.Problem = err.Error()
	}
	control, err := b.engine.Control(ctx)
	if err != nil {
		return nil, control, nil, fmt.Errorf("state: %w", err)
	}
	rules, err := state.ParseRules(control.Document)
	if err != nil {
		return nil, control, nil, fmt.Errorf("state: %w", err)
	}
	r.Generation, r.Raise, r.Stops = rules.Generation, rules.Raise, len(rules.Stops)
	if rules.FloorDate != 0 {
		r.FloorDate = fmt.Sprintf("%06x", rules.FloorDate)
	}
	lost, err := lostSince(ctx, b.dir, r.Sequence)
	r.Acts, r.ActsLeftOut, r.ActsProblem = lost.acts, lost.leftOut, lost.problem
	return r, control, rules, err
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

// AcceptState accepts a state that is older than the journal, or says with
// Apply false how it is. What was accepted since it was saved is not known any
// more, so floors are raised: below them nothing is accepted. It is recorded
// before and after, and gives the state afterwards, with the acts that it did not
// know before.
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
	if err := a.check(before, time.Now()); err != nil || !a.Apply {
		return before, err
	}
	if err := b.accept(ctx, &a, before, control, rules); err != nil {
		return nil, err
	}
	if r, _, _, err = b.report(ctx); err != nil {
		return nil, err
	}
	r.Acts, r.ActsLeftOut, r.ActsProblem = before.Acts, before.ActsLeftOut, before.ActsProblem
	return r, nil
}

// accept does it, between two records.
func (b *stateBench) accept(ctx context.Context, a *Acceptance, before *StateReport, control state.Control, rules *state.Rules) error {
	if !a.FloorsRaised {
		rules.Restored(a.Raise, bcdDate(a.FloorDate))
	}
	known := rules.LossOf(b.engine.instanceName(b.journal.ID())) // no number is used twice
	record := audit.Record{
		Principal: localUser(), Action: audit.ActionAcceptState, Reason: a.Reason,
		Subject: fmt.Sprintf("commit %d of %d", before.Sequence, before.Recorded),
	}
	return actAndMark(ctx, b.journal, record, func(ctx context.Context) (string, error) {
		if !a.FloorsRaised {
			var err error
			if control.Document, err = rules.Marshal(); err != nil {
				return "", err
			}
			control.Least = state.EpochAt(time.Now())
			if _, err := b.engine.SetControl(ctx, control); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("generation %d, counters raised by %d, floor date %06x", rules.Generation, rules.Raise, rules.FloorDate),
			b.engine.AcceptRegression(ctx, max(before.Recorded, known))
	}, b.mark)
}

// mark gives the number of a commit after an act on the state.
func (b *stateBench) mark(ctx context.Context) (uint64, error) { return store.Mark(ctx, b.engine) }

// EndRotation forgets the previous subject key of a state, and with it the
// records that have not moved: tokens that nobody knows then are accepted only
// with a later transaction date. It is recorded before and after.
func EndRotation(ctx context.Context, cfg *config.Daemon, date time.Time, reason string, log *slog.Logger) (err error) {
	b, err := openBench(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	_, control, rules, err := b.report(ctx)
	if err != nil {
		return err
	}
	record := audit.Record{Principal: localUser(), Action: audit.ActionEndRotation, Subject: rules.PreviousKey, Reason: reason}
	if err := rules.EndRotation(bcdDate(date)); err != nil {
		return err
	}
	return actAndMark(ctx, b.journal, record, func(ctx context.Context) (string, error) {
		var err error
		if control.Document, err = rules.Marshal(); err != nil {
			return "", err
		}
		control.Least = state.EpochAt(time.Now())
		_, err = b.engine.SetControl(ctx, control)
		return fmt.Sprintf("floor date %06x", rules.FloorDate), err
	}, b.mark)
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
