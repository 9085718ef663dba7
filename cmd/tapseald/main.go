// Command tapseald is the daemon: it answers whether a tap is authentic. It
// has no cgo, no key, no PIN and no PKCS#11 module.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tapseal/tapseal/internal/timerslack"
)

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

type commands struct {
	Serve   ServeCmd   `cmd:"" help:"Serve as a configuration file says."`
	Dev     DevCmd     `cmd:"" help:"Development mode: token, demo keys and all processes under one directory."`
	Check   CheckCmd   `cmd:"" help:"Say what is wrong with a configuration, changing nothing."`
	State   StateCmd   `cmd:"" help:"Care for the memory of tokens while the daemon is stopped."`
	Version VersionCmd `cmd:"" help:"Print the version."`

	VaultPrepare VaultPrepareCmd `cmd:"" hidden:""`
}

func main() {
	if err := timerslack.Ensure(timerslack.Daemon); err != nil {
		fmt.Fprintln(os.Stderr, "tapseald: timers stay fine, which costs CPU:", err)
	}
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var c commands
	parser, err := kong.New(&c,
		kong.Name("tapseald"),
		kong.Description("Verifies EMV payment cryptograms with issuer keys that never leave an HSM."),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.UsageOnError(),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tapseald:", err)
		return exitFailure
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "tapseald:", err)
		return exitUsage
	}
	err = command.Run()
	if err != nil && !errors.Is(err, errFindings) {
		fmt.Fprintln(os.Stderr, "tapseald:", err)
	}
	if err != nil {
		return exitFailure
	}
	return 0
}
