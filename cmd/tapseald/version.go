package main

import (
	"os"

	"github.com/tapseal/tapseal/internal/buildinfo"
)

// VersionCmd prints the version.
type VersionCmd struct {
	JSON bool `help:"Print one JSON object."`
}

// Run prints the version.
func (c *VersionCmd) Run() error { return buildinfo.Print(os.Stdout, "tapseald", c.JSON) }
