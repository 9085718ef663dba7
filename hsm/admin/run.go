package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Options say which program does the act, and on which module.
type Options struct {
	Binary     string   // path of tapseal-hsm
	Module     string   // path of the PKCS#11 module
	ModuleArgs string   // initialisation string for a module that needs one (NSS softokn)
	Environ    []string // KEY=value, added to the environment of this process (SOFTHSM2_CONF)
}

// maxDiagnosticBytes of the child's standard error go into an error text.
const maxDiagnosticBytes = 512

// Run starts an admin process for one act and waits for its end. Ending ctx
// kills the process: an act that was cut off must be looked at with Inventory.
// An error of the act itself is an *ActError.
func Run(ctx context.Context, o Options, act Act) (Result, error) {
	if err := act.Check(); err != nil {
		return Result{}, err
	}
	var in, out, diag bytes.Buffer
	if err := WriteOrder(&in, &Order{Module: o.Module, ModuleArgs: o.ModuleArgs, Act: act}); err != nil {
		return Result{}, fmt.Errorf("act %q: %w", act.Operation, err)
	}
	defer clear(in.Bytes()[:in.Cap()])
	cmd := exec.CommandContext(ctx, o.Binary, "admin")
	cmd.Env = append(os.Environ(), o.Environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in.Bytes()), &out, &diag
	runErr := cmd.Run()
	res, err := ReadReply(&out)
	var failure *ActError
	switch {
	case errors.As(err, &failure):
		return Result{}, fmt.Errorf("act %q: %w", act.Operation, failure)
	case runErr != nil:
		return Result{}, fmt.Errorf("act %q: admin process: %w%s", act.Operation, runErr, diagnostic(diag.String()))
	case err != nil:
		return Result{}, fmt.Errorf("act %q: %w", act.Operation, err)
	}
	return res, nil
}

func diagnostic(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	return ": " + s[max(0, len(s)-maxDiagnosticBytes):]
}
