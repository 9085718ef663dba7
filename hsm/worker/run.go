package worker

import (
	"log/slog"
	"time"

	"github.com/tapseal/tapseal/keys"
)

// A DataToken is what Open gives: a token that executes plans and proves keys.
type DataToken interface {
	Token
	KeyProof
}

// OpenFunc loads the module, logs in once and resolves the manifest's keys.
// Its error should be a *Failure; any other is FailureInternal.
type OpenFunc func(b *Bootstrap, m *keys.Manifest) (DataToken, error)

// Options configure a Server. Zero limits take the defaults.
type Options struct {
	Manifest     *keys.Manifest
	Token        DataToken
	AllowedUIDs  []uint32 // users that may connect
	Guess        GuessPolicy
	MaxConns     int
	WriteTimeout time.Duration
	Log          *slog.Logger
}
