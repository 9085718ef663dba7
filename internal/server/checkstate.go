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
	case errors.Is(err, fs.ErrNotExist):
		return // it will be made
	case errors.Is(err, embedded.ErrInUse):
		return // by the daemon that runs, which has looked
	case err != nil:
		r.add(LevelError, "state.dir", "%v", err)
		return
	}
	recorded, err := audit.LastStateSequence(cfg.Journal.Dir)
	switch {
	case err != nil:
		r.add(LevelError, "journal.dir", "%v", err)
	case info.Sequence < recorded:
		r.add(LevelError, "state.dir", "%v", errOlderState)
	}
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
