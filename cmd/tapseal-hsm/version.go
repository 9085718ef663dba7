package main

import (
	"fmt"
	"runtime/debug"
)

// VersionCmd prints the version.
type VersionCmd struct {
	JSON bool `help:"Print one JSON object."`
}

// buildVersion is what the build knows about itself.
type buildVersion struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go,omitempty"`
}

// Run prints the version.
func (c *VersionCmd) Run(out stdout) error {
	v := readVersion()
	if c.JSON {
		return printJSON(out, v)
	}
	if _, err := fmt.Fprintf(out, "tapseal-hsm %s %s %s\n", v.Version, v.Revision, v.Go); err != nil {
		return fmt.Errorf("printing the version: %w", err)
	}
	return nil
}

func readVersion() buildVersion {
	v := buildVersion{Version: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Version, v.Go = info.Main.Version, info.GoVersion
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
