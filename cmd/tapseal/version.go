package main

import "github.com/tapseal/tapseal/internal/buildinfo"

// VersionCmd prints the version.
type VersionCmd struct {
	JSON bool `help:"Print one JSON object."`
}

// Run prints the version.
func (c *VersionCmd) Run(std streams) error { return buildinfo.Print(std.out, "tapseal", c.JSON) }
