// Package buildinfo says which build a program is, in one form for all of them.
package buildinfo

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
)

// version is set by the linker for a release: scripts/build.
var version string

// unreleased is the version of a build that nobody named.
const unreleased = "devel"

// Info is what a build knows about itself.
type Info struct {
	Version  string `json:"version"`            // of the release, or what Go derives from the repository, or "devel"
	Revision string `json:"revision,omitempty"` // commit, if the build saw a repository
	Modified bool   `json:"modified,omitempty"` // something was not committed
	Go       string `json:"go"`
}

// Read gives the build of the running program.
func Read() Info {
	build, ok := debug.ReadBuildInfo()
	if !ok {
		build = &debug.BuildInfo{}
	}
	return read(version, build)
}

func read(release string, build *debug.BuildInfo) Info {
	i := Info{Version: release, Go: runtime.Version()}
	if i.Version == "" {
		i.Version = build.Main.Version
	}
	if i.Version == "" || i.Version == "(devel)" {
		i.Version = unreleased
	}
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Revision = s.Value
		case "vcs.modified":
			i.Modified = s.Value == "true"
		}
	}
	return i
}

// Print writes one line: JSON, or the program's name and then what is known.
func Print(w io.Writer, program string, asJSON bool) error {
	i := Read()
	var err error
	if asJSON {
		err = json.NewEncoder(w).Encode(i)
	} else {
		_, err = fmt.Fprintln(w, program+i.text())
	}
	if err != nil {
		return fmt.Errorf("printing the version: %w", err)
	}
	return nil
}

func (i Info) text() string {
	s := " " + i.Version
	if i.Revision != "" {
		s += " " + i.Revision
	}
	return s + " " + i.Go
}
