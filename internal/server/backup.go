package server

import (
	"context"
	"path/filepath"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/internal/secret"
)

// backupWithin bounds a backup.
const backupWithin = 10 * time.Minute

var backupName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,63}$`)

// BackupState copies the embedded state while it is in use.
func (a *administration) BackupState(ctx context.Context, m *tapsealv1.BackupStateRequest) (*tapsealv1.BackupStateResponse, error) {
	r, err := a.record(ctx, m.GetReason())
	if err != nil {
		return nil, err
	}
	switch {
	case !backupName.MatchString(m.GetName()):
		return nil, status.Error(codes.InvalidArgument, "name: must be 1 to 64 lower-case letters, digits and hyphens")
	case a.state.backup == nil:
		return nil, status.Error(codes.FailedPrecondition, "the state is in a database: back it up by its own means (docs/state.md)")
	case a.backups == "":
		return nil, status.Error(codes.FailedPrecondition, "the configuration has no state.backup_dir")
	}
	if err := secret.CheckDirectory(a.backups); err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "state.backup_dir: %v", err)
	}
	out := &tapsealv1.BackupStateResponse{Path: filepath.Join(a.backups, m.GetName())}
	r.Action, r.Subject = audit.ActionBackupState, m.GetName()
	err = act(ctx, a.e.journal, r, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, backupWithin)
		defer cancel()
		var err error
		if out.Sequence, err = a.state.Sequence(ctx); err != nil {
			return "", err
		}
		return "copied", a.state.backup(ctx, out.GetPath())
	})
	if err != nil {
		return nil, actError(err)
	}
	return out, nil
}

// stateStatus says how the memory of tokens is.
func (a *administration) stateStatus() *tapsealv1.StateStatus {
	s, rules := a.e.store.Stats(), a.e.store.Rules()
	return &tapsealv1.StateStatus{
		Engine: a.state.kind, Reachable: s.Reachable, Problem: s.LastError,
		Generation: rules.Generation, Stops: uint32(len(rules.Stops)), //nolint:gosec // at most state.MaxStops
	}
}
