package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/state"
	"github.com/tapseal/tapseal/internal/state/embedded"
	"github.com/tapseal/tapseal/internal/state/postgres"
	"github.com/tapseal/tapseal/internal/state/store"
)

// Kinds of engines.
const (
	engineEmbedded = "embedded"
	enginePostgres = "postgres"
)

// errOlderState is why a daemon does not start on a state that the journal is
// ahead of: it would accept again what it has accepted before.
var errOlderState = errors.New("the state is older than the journal: was a backup restored, or lost a standby what was acknowledged? " +
	"Stop, restore the newest one, or accept the loss with: tapseald state accept --config FILE")

// An engineDoor is an open engine and what has to be closed with it.
type engineDoor struct {
	state.Engine
	database *secrets.Database // nil: none, or the password is in a file
	// broken is closed when the medium has failed, also while no call returns;
	// nil for a database, which is asked again.
	broken <-chan struct{}

	kind   string                                      // of engine
	dir    string                                      // of the embedded engine
	backup func(ctx context.Context, dir string) error // nil: it has its own means
}

// Close closes the engine, then its credentials.
func (d *engineDoor) Close() error {
	err := d.Engine.Close()
	if d.database != nil {
		d.database.Close()
	}
	return err
}

// openState opens the engine that the configuration names. vault may be nil.
func openState(ctx context.Context, c *config.State, instance [16]byte, vault *secrets.Vault, log *slog.Logger) (*engineDoor, error) {
	if !c.Postgres.Used() {
		e, err := embedded.Open(c.Dir, embedded.Options{CacheBytes: int64(c.CacheMiB) << 20, Log: log})
		if err != nil {
			return nil, fmt.Errorf("state.dir: %w", err)
		}
		return &engineDoor{Engine: e, broken: e.Failed(), kind: engineEmbedded, dir: c.Dir, backup: e.Backup}, nil
	}
	o, database, err := databaseOptions(ctx, &c.Postgres, instance, vault, log)
	if err != nil {
		return nil, err
	}
	d := &engineDoor{database: database, kind: enginePostgres}
	if d.Engine, err = postgres.Open(ctx, o); err != nil {
		if database != nil {
			database.Close()
		}
		return nil, configError("state.postgres.connection", err)
	}
	return d, nil
}

// databaseOptions say how to reach the database. The second result, if not nil,
// keeps the credentials good until it is closed.
func databaseOptions(ctx context.Context, p *config.Postgres, instance [16]byte, vault *secrets.Vault, log *slog.Logger) (postgres.Options, *secrets.Database, error) {
	o := postgres.Options{Connection: p.Connection, Instance: instance, Isolation: postgres.Isolation(p.Isolation), Log: log}
	switch {
	case p.Vault && vault == nil:
		return o, nil, configError("state.postgres.vault", errors.New("there is no Vault"))
	case p.Vault:
		database, err := vault.OpenDatabase(ctx, p.DatabaseConfig, nil)
		if err != nil {
			return o, nil, configError("state.postgres.vault", err)
		}
		o.Credentials = func(context.Context) (string, secret.Secret, error) {
			c, err := database.Credentials()
			return c.Username, c.Password, err
		}
		return o, database, nil
	case p.PasswordFile != "":
		o.Credentials = func(context.Context) (string, secret.Secret, error) {
			password, err := secret.ReadFile(p.PasswordFile, maxPasswordBytes)
			if err != nil {
				return "", secret.Secret{}, configError("state.postgres.password_file", err)
			}
			return "", password, nil
		}
	}
	return o, nil, nil
}

const maxPasswordBytes = 1024

// errJournalGone is why a daemon does not start beside an empty journal: a state
// that somebody has restored would look like the newest one.
var errJournalGone = errors.New("the journal is empty, and the state is not: was it moved away, or is journal.dir wrong? " +
	"Put it back, or accept that nobody can tell how old the state is with: tapseald state accept --config FILE")

// emptyStateError is why a daemon does not start on an embedded state that
// somebody has just made, beside a journal that knows of commits: a backup that
// was put inside the directory, or beside it, leaves such a one.
func emptyStateError(dir string) error {
	return fmt.Errorf("the state in %s is new and empty: is state.dir right, was a backup copied into it instead of in its place? "+
		"Put the newest one there, or accept the loss with: tapseald state accept --config FILE", dir)
}

// A fitting is what a state and the journal beside it know of one daemon's
// commits.
type fitting struct {
	known, recorded uint64      // the last commit, as the state and as the journal have it
	noJournal       bool        // the journal has no record at all: one that was ever used has that of a start
	untouched       bool        // an embedded state that nothing was ever written to
	dir             string      // of an embedded state
	lost            *state.Loss // that nobody has accepted; of any instance
}

// older reports whether the journal is ahead.
func (f *fitting) older() bool { return f.known < f.recorded }

// gone reports whether there is a state without its journal.
func (f *fitting) gone() bool { return f.known > 0 && f.noJournal }

// empty reports whether a journal stands beside a state that is not the one it
// was written with.
func (f *fitting) empty() bool { return f.untouched && f.older() }

// err is why a daemon does not start, nil if nothing speaks against it.
func (f *fitting) err() error {
	switch {
	case f.gone():
		return errJournalGone
	case f.empty():
		return emptyStateError(f.dir)
	case f.older():
		return fmt.Errorf("commit %d is the last one there, and %d is recorded: %w", f.known, f.recorded, errOlderState)
	case f.lost != nil:
		return fmt.Errorf("instance %s misses its commits up to %d: %w", f.lost.Instance, f.lost.Acknowledged, errOlderState)
	}
	return nil
}

// fit asks state and journal. journalRecords is how many the journal has.
func (d *engineDoor) fit(ctx context.Context, journalDir string, journalRecords uint64) (*fitting, error) {
	f := &fitting{noJournal: journalRecords == 0, dir: d.dir}
	var err error
	if f.recorded, err = audit.LastStateSequence(journalDir); err != nil {
		return nil, fmt.Errorf("journal.dir: %w", err)
	}
	if f.known, err = d.Sequence(ctx); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	control, err := d.Control(ctx)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	f.untouched = d.kind == engineEmbedded && f.known == 0 && control.Epoch == 0
	rules, err := state.ParseRules(control.Document)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	f.lost = rules.Lost()
	return f, nil
}

// instanceName is how the daemon of a journal is called before people; empty
// where it is the only one.
func (d *engineDoor) instanceName(journal [16]byte) string {
	if d.kind == engineEmbedded {
		return ""
	}
	return hex.EncodeToString(journal[:])
}

// checkNotOlder compares what the state knows of this daemon's commits with what
// the journal does. If it lacks some, the daemons that it shares the state with
// are told.
func checkNotOlder(ctx context.Context, d *engineDoor, journalDir string, journal *audit.Journal, now time.Time) error {
	f, err := d.fit(ctx, journalDir, journal.Stats().LastSequence)
	if err != nil {
		return err
	}
	if name := d.instanceName(journal.ID()); name != "" && f.older() {
		if _, err := store.TellLoss(ctx, d, state.Loss{Instance: name, Acknowledged: f.recorded}, now); err != nil {
			return errors.Join(f.err(), fmt.Errorf("the other daemons of this database could not be told, stop them: %w", err))
		}
	}
	if err := f.err(); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}
