package main

import (
	"context"
	"fmt"
	"io"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// BackupCmd asks the service for a copy of its state.
type BackupCmd struct {
	Name   string `arg:"" help:"Name of the copy, below state.backup_dir of the service: lower-case letters, digits and hyphens."`
	Reason string `required:"" help:"Why, for the journal."`
	JSON   bool   `help:"Print one JSON object."`
}

// Help says what to do with a copy.
func (*BackupCmd) Help() string {
	return "The service goes on meanwhile. To restore a copy, stop the service and put it in the place of state.dir: " +
		"it is older than the journal then, and tapseald state accept says what that means. Needs role operator."
}

// Run asks and prints.
func (c *BackupCmd) Run(std streams, file contextFile) error {
	var out *tapsealv1.BackupStateResponse
	err := file.administration(roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) (err error) {
		out, err = a.BackupState(ctx, &tapsealv1.BackupStateRequest{Name: c.Name, Reason: c.Reason})
		return err
	})
	if err != nil {
		return err
	}
	return printMessage(std.out, out, c.JSON, func(w io.Writer) {
		_, _ = fmt.Fprintf(w, "copied to %s, commit %d and later\n", out.GetPath(), out.GetSequence())
	})
}
