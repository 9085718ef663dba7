package main

import "github.com/tapseal/tapseal/internal/buildinfo"

// VersionCmd prints the version.
type VersionCmd struct {
	JSON bool `help:"Print one JSON object."`
}

// Run prints the version.
func (c *VersionCmd) Run(out stdout) error { return buildinfo.Print(out, "tapseal-hsm", c.JSON) }
