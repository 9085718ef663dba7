package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
)

// KeysCmd looks at keys.
type KeysCmd struct {
	List KeysListCmd `cmd:"" help:"List the keys that the connected workers hold: names, states, profiles."`
}

// KeysListCmd lists keys.
type KeysListCmd struct {
	KeySet string `help:"Only this key set." placeholder:"NAME"`
	JSON   bool   `help:"Print one JSON object."`
}

// Help says who may.
func (*KeysListCmd) Help() string {
	return "Needs role operator, auditor, key-manager or security-officer."
}

// Run asks for every page and prints.
func (c *KeysListCmd) Run(std streams, file contextFile) error {
	all := &tapsealv1.ListKeysResponse{}
	err := file.administration(roleOperator, func(ctx context.Context, a tapsealv1.AdminServiceClient) error {
		for token := ""; ; {
			page, err := a.ListKeys(ctx, &tapsealv1.ListKeysRequest{KeySet: c.KeySet, PageToken: token})
			if err != nil {
				return err
			}
			all.Keys = append(all.Keys, page.GetKeys()...)
			if token = page.GetNextPageToken(); token == "" {
				return nil
			}
		}
	})
	if err != nil {
		return err
	}
	return printMessage(std.out, all, c.JSON, func(w io.Writer) {
		_, _ = fmt.Fprintln(w, "KEY SET\tVERSION\tUSE\tSTATE\tID\tPROFILES")
		for _, k := range all.GetKeys() {
			_, _ = fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%x\t%s\n", k.GetKeySet(), k.GetVersion(), k.GetUse(),
				word(k.GetState().String(), "KEY_STATE_"), k.GetId(), strings.Join(k.GetProfiles(), " "))
		}
	})
}
