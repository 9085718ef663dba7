package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/tapseal/tapseal/internal/server"
)

// StateEndRotationCmd is tapseald state end-rotation.
type StateEndRotationCmd struct {
	stateFlags
	FloorDate string `required:"" placeholder:"YYYY-MM-DD" help:"Tokens that have not tapped since the rotation began are unknown afterwards, and are accepted only with a transaction date after this one. Today is safe; what an idle card did before stays refused."`
	Reason    string `help:"Why, for the journal: 1 to 200 characters. Needed with --apply."`
	Apply     bool   `help:"Do it."`
}

// Run ends the rotation, or says what that would mean.
func (c *StateEndRotationCmd) Run(ctx context.Context) error {
	cfg, log, err := c.load()
	if err != nil {
		return err
	}
	date, err := time.Parse(time.DateOnly, c.FloorDate)
	if err != nil || date.After(time.Now().Add(48*time.Hour)) || date.Year() < 2000 {
		return fmt.Errorf("--floor-date: must be YYYY-MM-DD, and not in the future")
	}
	if c.Apply && (c.Reason == "" || len(c.Reason) > 200) {
		return fmt.Errorf("--reason: must be 1 to 200 characters")
	}
	if c.Apply {
		if err := server.EndRotation(ctx, cfg, date, c.Reason, log); err != nil {
			return err
		}
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(map[string]any{"applied": c.Apply, "floor_date": date.Format(time.DateOnly)})
	}
	what, next := "would forget", "nothing was changed; to do it: --apply --reason \"...\""
	if c.Apply {
		what, next = "forgot", "now the previous version can be taken out of the manifest"
	}
	fmt.Printf("%s the previous subject key: tokens that have not tapped since it was replaced are accepted only with a transaction date after %s\n%s\n",
		what, date.Format(time.DateOnly), next)
	return nil
}
