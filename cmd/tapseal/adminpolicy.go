package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// PolicyReloadCmd has the service read its policy again.
type PolicyReloadCmd struct {
	Yes    bool   `help:"Put the file in force. Without this only what would change is shown."`
	Digest string `help:"SHA-256 of the file that was reviewed, as \"tapseal policy check\" prints it; required with --yes." placeholder:"HEX"`
	Reason string `help:"Why, for the journal." placeholder:"TEXT"`
	JSON   bool   `help:"Print one JSON object."`
}

// Help says who may, and what is read.
func (*PolicyReloadCmd) Help() string {
	return "Needs role security-officer. The service reads the file that its own configuration names; one with a fault, or " +
		"another than the reviewed one, changes nothing. Both are in the journal, a look as well."
}

// Run shows or acts.
func (c *PolicyReloadCmd) Run(std streams, file contextFile) error {
	if c.Reason == "" {
		return errNoReason
	}
	digest, err := hex.DecodeString(c.Digest)
	if err != nil || (c.Yes && len(digest) != 32) {
		return errors.New("--digest must be the 64 hexadecimal digits that \"tapseal policy check\" prints")
	}
	var out *tapsealv1.ReloadPolicyResponse
	err = file.administration("security-officer", func(ctx context.Context, a tapsealv1.AdminServiceClient) (err error) {
		out, err = a.ReloadPolicy(ctx, &tapsealv1.ReloadPolicyRequest{
			DryRun: proto.Bool(!c.Yes), ReviewedDigest: digest, Reason: c.Reason,
		})
		return err
	})
	if err != nil {
		return err
	}
	return printMessage(std.out, out, c.JSON, func(w io.Writer) { c.write(w, out) })
}

func (c *PolicyReloadCmd) write(w io.Writer, out *tapsealv1.ReloadPolicyResponse) {
	changed := string(out.GetBeforeDigest()) != string(out.GetAfterDigest())
	switch {
	case !changed:
		_, _ = fmt.Fprintf(w, "the file is the policy in force: %x\n", out.GetAfterDigest())
	case out.GetApplied():
		_, _ = fmt.Fprintf(w, "in force: %x, before it %x\n", out.GetAfterDigest(), out.GetBeforeDigest())
	default:
		_, _ = fmt.Fprintf(w, "would put in force %x in place of %x; nothing was done (--yes --digest does it)\n", out.GetAfterDigest(), out.GetBeforeDigest())
	}
	for _, line := range out.GetChanges() {
		_, _ = fmt.Fprintln(w, line)
	}
	for _, line := range out.GetWarnings() {
		_, _ = fmt.Fprintln(w, "warning:", line)
	}
}
