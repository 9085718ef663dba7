package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/tapseal/tapseal/internal/server"
)

// errFindings ends check with status 1; what is wrong has been printed.
var errFindings = errors.New("the configuration has faults")

// CheckCmd is tapseald check.
type CheckCmd struct {
	Config string `required:"" placeholder:"FILE" help:"Configuration file."`
	JSON   bool   `help:"Print JSON."`
}

// Run checks and prints; exit status 1 if anything is wrong.
func (c *CheckCmd) Run(ctx context.Context) error {
	r := server.Check(ctx, c.Config)
	if c.JSON {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	} else {
		for _, f := range r.Findings {
			fmt.Printf("%s: %s: %s\n", f.Level, f.Key, f.Problem)
		}
		for _, k := range r.Keys {
			fmt.Printf("ok: key set %s version %d: %s\n", k.KeySet, k.Version, k.State)
		}
		if r.OK {
			fmt.Println("ok")
		}
	}
	if !r.OK {
		return errFindings
	}
	return nil
}
