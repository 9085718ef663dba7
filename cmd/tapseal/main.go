// Command tapseal is the command line of tapseal: the phone that taps, the
// caller who verifies, the vectors that prove the arithmetic, and the reader
// of the journal.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// Exit statuses. Scripts branch on them, so whatever is neither VALID nor
// INVALID has one of its own: also a mistyped flag.
const (
	statusValid   = 0
	statusInvalid = 1
	statusOther   = 2
)

// commandLine is the whole grammar.
type commandLine struct {
	Context string `help:"File that says where the service is, and who asks." env:"TAPSEAL_CONTEXT" placeholder:"FILE"`

	Tap         TapCmd         `cmd:"" help:"Play a phone at a terminal: make a transaction with a demo card and print its field 55."`
	Verify      VerifyCmd      `cmd:"" help:"Verify a tap, and make the issuer's response cryptogram."`
	Conformance ConformanceCmd `cmd:"" help:"Run known-answer vectors through a worker and a token."`
	Token       TokenCmd       `cmd:"" help:"Stop, resume, restrict and look at tokens, devices, BIN ranges and keys."`
	Backup      BackupCmd      `cmd:"" help:"Copy the embedded state of tokens while it is in use."`
	Events      EventsCmd      `cmd:"" help:"Follow what the service decides and what is done to it."`
	Journal     JournalCmd     `cmd:"" help:"Read the journal of decisions."`
	Status      StatusCmd      `cmd:"" help:"Show how the service and its HSM workers are."`
	Keys        KeysCmd        `cmd:"" help:"Look at the keys that the workers hold."`
	Workers     WorkersCmd     `cmd:"" help:"Manage the HSM workers."`
	Policy      PolicyCmd      `cmd:"" help:"Check who may do what."`
	VaultSetup  VaultSetupCmd  `cmd:"" help:"Show or write what tapseal needs in Vault."`
	Version     VersionCmd     `cmd:"" help:"Print the version."`
}

// streams are the standard streams, as parameters for tests.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// A statusError is an exit status after everything that is to be said was
// printed.
type statusError int

// Error is for callers that print errors, which run does not.
func (s statusError) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// ExitCode is the exit status of the process.
func (s statusError) ExitCode() int { return int(s) }

func main() {
	os.Exit(run(os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr}))
}

func run(args []string, std streams) int {
	var grammar commandLine
	parser, err := kong.New(&grammar,
		kong.Name("tapseal"),
		kong.Description("Verify payment cryptograms with keys that never leave an HSM."),
		kong.Writers(std.out, std.err),
		kong.Bind(std),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		return report(std, args, err)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return report(std, args, fmt.Errorf("%w (hint: tapseal --help)", err))
	}
	parsed.Bind(contextFile(grammar.Context))
	if err := parsed.Run(); err != nil {
		return report(std, args, err)
	}
	return statusValid
}

// report prints an error where the reader of the output looks for it, and
// returns the exit status.
func report(std streams, args []string, err error) int {
	var status kong.ExitCoder
	if errors.As(err, &status) && !isUsage(err) {
		return status.ExitCode()
	}
	if wantsJSON(args) {
		_ = json.NewEncoder(std.out).Encode(struct {
			Error string `json:"error"`
		}{err.Error()})
	} else {
		_, _ = fmt.Fprintf(std.err, "tapseal: %v\n", err)
	}
	return statusOther
}

// isUsage reports a faulty command line, to which kong gives a status of its
// own.
func isUsage(err error) bool {
	var parse *kong.ParseError
	return errors.As(err, &parse)
}

// wantsJSON looks at the arguments themselves, for they may not parse.
func wantsJSON(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool {
		return a == "--json" || (strings.HasPrefix(a, "--json=") && a != "--json=false")
	})
}
