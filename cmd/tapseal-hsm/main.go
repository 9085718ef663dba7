// Command tapseal-hsm is the HSM side of tapseal: a supervisor that holds the
// PIN and the sockets, and workers that hold a login to the token. It is a
// service of its own, under a user of its own.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/tapseal/tapseal/internal/timerslack"
)

// Exit statuses.
const (
	statusOK     = 0
	statusFailed = 1
	statusUsage  = 2
)

// commandLine is the whole grammar. Worker, admin and scratch are started by
// other parts of tapseal.
type commandLine struct {
	LogFormat string `help:"How to log to standard error: json or text." enum:"json,text" default:"json"`

	Supervise SuperviseCmd `cmd:"" help:"Start, feed, watch and replace the workers."`
	Check     CheckCmd     `cmd:"" help:"Check configuration, token and keys. Logs in once; changes nothing."`
	Unlock    UnlockCmd    `cmd:"" help:"Allow logins again after the token refused the PIN."`
	Version   VersionCmd   `cmd:"" help:"Print the version."`
	Worker    WorkerCmd    `cmd:"" hidden:"" help:"Be a worker of a supervisor."`
	Admin     AdminCmd     `cmd:"" hidden:"" help:"Do one act on a token."`
	Scratch   ScratchCmd   `cmd:"" hidden:"" help:"Run known-answer vectors."`
	Bench     BenchCmd     `cmd:"" hidden:"" help:"Run plans in a bare loop."`
}

// stdout is where results go, as a type that kong can bind.
type stdout struct{ io.Writer }

// errReported ends a command that has already said what is wrong.
var errReported = errors.New("reported")

func main() {
	if err := timerslack.Ensure(timerslack.Workers); err != nil {
		fmt.Fprintln(os.Stderr, "tapseal-hsm: timers stay fine, which costs CPU:", err)
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, out, errOut io.Writer) int {
	var grammar commandLine
	parser, err := kong.New(&grammar,
		kong.Name("tapseal-hsm"),
		kong.Description("Supervisor and PKCS#11 workers of tapseal."),
		kong.Writers(out, errOut),
		kong.Bind(stdout{out}),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return complain(errOut, err, statusUsage)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return complain(errOut, fmt.Errorf("%w (hint: tapseal-hsm --help)", err), statusUsage)
	}
	err = parsed.Run(newLog(grammar.LogFormat, errOut))
	switch {
	case err == nil:
		return statusOK
	case errors.Is(err, errReported):
		return statusFailed
	default:
		return complain(errOut, err, statusFailed)
	}
}

func complain(w io.Writer, err error, status int) int {
	for _, line := range strings.Split(err.Error(), "\n") {
		_, _ = fmt.Fprintf(w, "tapseal-hsm: %s\n", line)
	}
	return status
}

func newLog(format string, w io.Writer) *slog.Logger {
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, nil))
	}
	return slog.New(slog.NewJSONHandler(w, nil))
}

// printJSON prints one object.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}
