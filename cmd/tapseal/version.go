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
func (c *VersionCmd) Run(std streams) error {
	v := readVersion()
	if c.JSON {
		text, err := render(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(std.out, text)
		return err
	}
	_, err := fmt.Fprintf(std.out, "tapseal %s %s %s\n", v.Version, v.Revision, v.Go)
	return err
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
