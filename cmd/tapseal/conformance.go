package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/tapseal/tapseal/hsm/scratch"
	"github.com/tapseal/tapseal/internal/conformance"
)

// ConformanceCmd runs known-answer vector files.
type ConformanceCmd struct {
	Files []string `arg:"" name:"file" help:"Vector files, schema of testdata/vectors/README.md."`
	JSON  bool     `help:"Print one JSON object with the result of every vector."`

	Module     string `help:"PKCS#11 module of a given token. Needs --slot and --pin-file; only session objects are made in it. Default: a SoftHSM token of its own in a temporary directory." placeholder:"FILE"`
	ModuleArgs string `help:"Initialisation string of a module that needs one (NSS softokn)." placeholder:"TEXT"`
	Slot       *uint  `help:"Slot number of the given token." placeholder:"N"`
	PINFile    string `name:"pin-file" help:"File that holds the user PIN of the given token." placeholder:"FILE"`
}

// Help says what the last line and the exit status mean.
func (*ConformanceCmd) Help() string {
	return "The last line is \"N passed, N failed, N skipped\". Exit status: 0 nothing failed, " +
		"1 a vector failed or a file could not be read, 2 anything else."
}

// Run runs the files.
func (c *ConformanceCmd) Run(std streams) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := conformance.Command{Files: c.Files, JSON: c.JSON, Out: std.out, Start: c.start}
	if isTerminal(std.err) {
		run.Progress = std.err
	}
	status, err := run.Run(ctx)
	if err != nil {
		return err
	}
	if status != conformance.StatusPassed {
		return statusError(status)
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (c *ConformanceCmd) start(ctx context.Context) (conformance.Executor, io.Closer, error) {
	binary, err := siblingProgram("tapseal-hsm")
	if err != nil {
		return nil, nil, err
	}
	client, err := scratch.Start(ctx, scratch.Options{
		Binary: binary, Module: c.Module, ModuleArgs: c.ModuleArgs, Slot: c.Slot, PINFile: c.PINFile,
	})
	if err != nil {
		return nil, nil, err
	}
	return conformance.ScratchToken{Client: client}, client, nil
}

// siblingProgram finds a program of ours: beside this one first, so that a
// build is not mixed with an installed one, then on the PATH.
func siblingProgram(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside this program nor on the PATH", name)
	}
	return path, nil
}
