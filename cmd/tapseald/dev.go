package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tapseal/tapseal/internal/devmode"
)

// DevCmd is development mode.
type DevCmd struct {
	Dir    string `help:"Directory for token, certificates, phone and journal; made if it is not there." required:"" placeholder:"DIR"`
	Listen string `help:"Loopback address of the service; another port is taken if this one is busy." default:"127.0.0.1:7443" placeholder:"HOST:PORT"`
	Module string `help:"SoftHSM's PKCS#11 module; default: where distributions put it." placeholder:"FILE"`
	JSON   bool   `help:"Print one JSON object when ready, instead of text."`
}

// Help says what it makes.
func (*DevCmd) Help() string {
	return "Makes a SoftHSM token with published test keys, starts the HSM workers as children and serves on loopback with " +
		"certificates of its own, until it is interrupted. A second start reuses DIR. A directory that holds anything else is refused."
}

// Run stays until SIGINT or SIGTERM.
func (c *DevCmd) Run(ctx context.Context) error {
	binary, err := hsmProgram()
	if err != nil {
		return err
	}
	return devmode.Run(ctx, devmode.Options{
		Dir: c.Dir, Listen: c.Listen, HSMBinary: binary, Module: c.Module, Version: version().Version, Ready: c.ready,
	})
}

// hsmProgram finds tapseal-hsm: beside this program first, so that a build is
// not mixed with an installed one, then on the PATH.
func hsmProgram() (string, error) {
	const name = "tapseal-hsm"
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", errors.New("tapseal-hsm is neither beside this program nor on the PATH (hint: make build)")
	}
	return filepath.Abs(path)
}

// ready says how to reach the service and what to try.
func (c *DevCmd) ready(r devmode.Ready) {
	if c.JSON {
		_ = json.NewEncoder(os.Stdout).Encode(struct {
			Address string `json:"address"`
			Context string `json:"context"`
			Dir     string `json:"dir"`
			Made    bool   `json:"made"`
		}{r.Address, r.Context, r.Dir, r.Made})
		return
	}
	what := "reusing the token in"
	if r.Made {
		what = "made a token with published test keys in"
	}
	fmt.Fprintf(os.Stdout, "%s %s\n", what, r.Dir)
	if r.Busy {
		fmt.Fprintf(os.Stdout, "%s is busy, took another port\n", c.Listen)
	}
	fmt.Fprintf(os.Stdout, `ready on %s

try in another terminal:
  export TAPSEAL_CONTEXT=%s
  tapseal tap
  tapseal tap --json | tapseal verify - --csu 00820000
  tapseal journal show %s

logs are in %s; interrupt stops everything
`, r.Address, r.Context, filepath.Join(r.Dir, "journal"), filepath.Join(r.Dir, "log"))
}
