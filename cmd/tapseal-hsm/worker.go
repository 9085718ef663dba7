package main

import (
	"bytes"
	"errors"
	"log/slog"

	"github.com/tapseal/tapseal/hsm/pkcs11"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// WorkerCmd is a data worker. A supervisor starts it with three descriptors.
type WorkerCmd struct{}

// Run serves until the supervisor says that it is enough, or is gone.
func (WorkerCmd) Run(log *slog.Logger) error {
	return worker.Main(func(b *worker.Bootstrap, m *keys.Manifest) (worker.DataToken, error) {
		return openToken(b, m, log.With("worker", b.Slot))
	}, log)
}

// openToken logs in to the token that the bootstrap names.
func openToken(b *worker.Bootstrap, m *keys.Manifest, log *slog.Logger) (worker.DataToken, error) {
	var pin []byte
	b.PIN.Use(func(p []byte) { pin = bytes.Clone(p) }) // Open wipes it
	t, err := pkcs11.Open(pkcs11.Config{
		Module: b.Module, ModuleArgs: b.ModuleArgs, TokenLabel: b.TokenLabel, TokenSerial: b.TokenSerial,
		ResidentKeys: b.ResidentKeys, Log: log, MeasureCPU: measuring(),
	}, pin, m)
	if err != nil {
		return nil, &worker.Failure{Kind: failureKind(err), Err: err}
	}
	if measuring() {
		go leaveCounters(t)
	}
	return t, nil
}

// failureKind asks for a refused PIN first: whatever else an error is, this
// must stop the logins.
func failureKind(err error) worker.FailureKind {
	switch {
	case errors.Is(err, pkcs11.ErrPINRefused):
		return worker.FailurePINRefused
	case errors.Is(err, pkcs11.ErrTokenNotFound):
		return worker.FailureTokenNotFound
	case errors.Is(err, pkcs11.ErrModule):
		return worker.FailureModule
	default:
		return worker.FailureInternal
	}
}
