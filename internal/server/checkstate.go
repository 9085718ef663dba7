package server

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/state/embedded"
)

// checkState looks at the memory of tokens without changing it.
func (r *Report) checkState(ctx context.Context, cfg *config.Daemon) {
	if cfg.State.Postgres.Used() {
		r.checkDatabase(ctx, cfg)
		return
	}
	dir := cfg.State.Dir
	r.checkDirectory("state.dir", dir)
	info, err := embedded.Check(dir)
	switch {
	case errors.Is(err, embedded.ErrInUse):
		return // by the daemon that runs, which has looked
	case err != nil && !errors.Is(err, fs.ErrNotExist): // which a start would make
		r.add(LevelError, "state.dir", "%v", err)
		return
	}
	f := fitting{known: info.Sequence, noJournal: hasNoRecord(cfg.Journal.Dir), untouched: info.Sequence == 0 && info.Epoch == 0, dir: dir}
	if f.recorded, err = audit.LastStateSequence(cfg.Journal.Dir); err != nil {
		r.add(LevelError, "journal.dir", "%v", err)
		return
	}
	key := "state.dir"
	if f.gone() {
		key = "journal.dir"
	}
	if err := f.err(); err != nil {
		r.add(LevelError, key, "%v", err)
	}
}

// hasNoRecord reports whether a journal is missing, or is empty. It changes
// nothing; what is damaged is not empty.
func hasNoRecord(dir string) bool {
	for _, err := range audit.ReadDir(dir) {
		return errors.Is(err, fs.ErrNotExist)
	}
	return true
}

// checkDatabase connects, unless that would need a lease from Vault, and asks
// for the schema.
func (r *Report) checkDatabase(ctx context.Context, cfg *config.Daemon) {
	if cfg.State.Postgres.Vault {
		r.add(LevelWarning, "state.postgres.connection", "was not tried: its credentials come from Vault, and each look would make some")
		return
	}
	pending, err := MigrateState(ctx, cfg, false, slog.New(slog.DiscardHandler))
	switch {
	case err != nil:
		r.add(LevelError, "state.postgres.connection", "%s", strings.TrimPrefix(err.Error(), "state.postgres.connection: "))
	case len(pending) > 0:
		r.add(LevelError, "state.postgres.connection", "the schema lacks %s: bring it up with: tapseald state migrate --config FILE --apply", strings.Join(pending, ", "))
	}
}
