package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/tapseal/tapseal/internal/buildinfo"
	"github.com/tapseal/tapseal/internal/devmode"
	"github.com/tapseal/tapseal/internal/shell"
)

// DevCmd is development mode.
type DevCmd struct {
	Dir    string `help:"Directory for token, certificates, phone and journal; made if it is not there." required:"" placeholder:"DIR"`
	Listen string `help:"Loopback address of the service; another port is taken if this one is busy (default: ${default})." default:"127.0.0.1:7443" placeholder:"HOST:PORT"`
	Module string `help:"SoftHSM's PKCS#11 module; default: where distributions put it." placeholder:"FILE"`
	JSON   bool   `help:"Print one JSON object when ready, instead of text."`

	VaultAddress   string `help:"Keep the PIN in this Vault or OpenBao and get certificates from it; it is set up for DIR." placeholder:"URL"`
	VaultCA        string `name:"vault-ca" help:"Authorities of its certificate, PEM; default: the system's." type:"path" placeholder:"FILE"`
	VaultNamespace string `help:"Namespace in it." placeholder:"NAME"`
	VaultTokenFile string `help:"File with an administrator's token, mode 0600: read once, for the set-up, by a process that ends then." type:"path" placeholder:"FILE"`
}

// Help says what it makes.
func (*DevCmd) Help() string {
	return "Makes a SoftHSM token with published test keys, starts the HSM workers as children and serves on loopback with " +
		"certificates of its own, until it is interrupted. A second start reuses DIR. A directory that holds anything else is refused."
}

// Run stays until SIGINT or SIGTERM.
func (c *DevCmd) Run(ctx context.Context) error {
	vault, err := c.vault()
	if err != nil {
		return err
	}
	binary, err := hsmProgram()
	if err != nil {
		return err
	}
	return devmode.Run(ctx, devmode.Options{
		Dir: c.Dir, Listen: c.Listen, HSMBinary: binary, Module: c.Module, Vault: vault, Version: buildinfo.Read().Version, Ready: c.ready,
	})
}

// vault is nil if secrets are in files.
func (c *DevCmd) vault() (*devmode.Vault, error) {
	if c.VaultAddress == "" {
		if c.VaultCA != "" || c.VaultNamespace != "" || c.VaultTokenFile != "" {
			return nil, errors.New("--vault-address is missing")
		}
		return nil, nil
	}
	if c.VaultTokenFile == "" {
		return nil, errors.New("--vault-address needs --vault-token-file, with the token of an administrator who may write policies, roles and engines")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("looking for this program: %w", err)
	}
	return &devmode.Vault{
		Address: c.VaultAddress, CAFile: c.VaultCA, Namespace: c.VaultNamespace, TokenFile: c.VaultTokenFile, Setup: self,
	}, nil
}

// VaultPrepareCmd sets up Vault for development mode, which starts it.
type VaultPrepareCmd struct{}

// Run reads an order, acts and answers.
func (VaultPrepareCmd) Run(ctx context.Context) error {
	return devmode.RunSetup(ctx, os.Stdin, os.Stdout)
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
			Vault   string `json:"vault,omitempty"`
		}{r.Address, r.Context, r.Dir, r.Made, r.Vault})
		return
	}
	what := "reusing the token in"
	if r.Made {
		what = "made a token with published test keys in"
	}
	fmt.Fprintf(os.Stdout, "%s %s\n", what, r.Dir)
	if r.Vault != "" {
		fmt.Fprintf(os.Stdout, "PIN and certificates come from Vault at %s\n", r.Vault)
	}
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
`, r.Address, shell.Quote(r.Context), shell.Quote(filepath.Join(r.Dir, "journal")), filepath.Join(r.Dir, "log"))
}
