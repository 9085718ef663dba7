package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// release is set by the linker for a release build.
var release string

// VersionCmd is tapseald version.
type VersionCmd struct {
	JSON bool `help:"Print JSON."`
}

type versionInfo struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

// Run prints the version.
func (c *VersionCmd) Run() error {
	v := version()
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(v)
	}
	_, err := fmt.Println("tapseald", v.Version, v.Revision, v.Go)
	return err
}

func version() versionInfo {
	v := versionInfo{Version: release, Go: runtime.Version()}
	if v.Version == "" {
		v.Version = "devel"
	}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
