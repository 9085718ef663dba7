package postgres

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tapseal/tapseal/internal/state"
)

// Errors of Open and Migrate besides those of the contract.
var (
	// ErrUnsafe: the server is set up such that it would lose what it
	// acknowledged, or the connection could be read and changed by others.
	ErrUnsafe = errors.New("the database is not safe to use")
	// ErrNotMigrated: the schema is older than this program's.
	ErrNotMigrated = errors.New("the database is not migrated")
	// ErrNewerSchema: a newer program has migrated the database.
	ErrNewerSchema = errors.New("the database was migrated by a newer version")
)

// SQLSTATE codes; PostgreSQL's manual, appendix A.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	uniqueViolation      = "23505"
	undefinedTable       = "42P01"
	duplicateTable       = "42P07"
	duplicateObject      = "42710" // of a table's row type
)

func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// rolledBack says that the server took everything back and asks for another
// attempt.
func rolledBack(err error) bool {
	c := code(err)
	return c == serializationFailure || c == deadlockDetected
}

// answered says that the server is there and refuses: a new connection would
// hear the same.
func answered(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && e.SeverityUnlocalized == "ERROR"
}

// unavailable wraps what is none of the contract's errors yet.
func unavailable(doing string, err error) error {
	for _, known := range []error{state.ErrUnavailable, state.ErrControlChanged, state.ErrRegressed, state.ErrBroken} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%s: %w: %w", doing, state.ErrUnavailable, err)
}
