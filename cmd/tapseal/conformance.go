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

// conformanceStatus is an exit status other than 0, after everything that is
// to be said was printed.
type conformanceStatus int

// Error is for a caller that prints errors.
func (s conformanceStatus) Error() string { return "not every vector passed" }

// ExitCode is the exit status of the process.
func (s conformanceStatus) ExitCode() int { return int(s) }

// Run runs the files.
func (c *ConformanceCmd) Run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := conformance.Command{
		Files: c.Files, JSON: c.JSON, Out: os.Stdout, Err: os.Stderr, Start: c.start,
	}
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		run.Progress = os.Stderr
	}
	if status := run.Run(ctx); status != conformance.StatusPassed {
		return conformanceStatus(status)
	}
	return nil
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
