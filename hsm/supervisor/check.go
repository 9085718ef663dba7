package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
)

// A CheckReport is the result of Check.
type CheckReport struct {
	OK       bool                `json:"ok"`
	Problems []Problem           `json:"problems"`
	Keys     []worker.KeyFinding `json:"keys"`
	Login    string              `json:"login"`           // "ok", "stopped", or "not tried"
	Vault    string              `json:"vault,omitempty"` // what was found there
}

// LoginNotTried is CheckReport.Login when the check did not get that far.
const LoginNotTried = "not tried"

// Check validates the configuration, asks Vault where there is one, then logs
// in once, unless logins are
// stopped, and proves every key of the manifest in a worker of its own.
// Nothing is changed, with one exception: a PIN that the token refuses stops
// all logins here as everywhere, because the token has counted the try.
func Check(ctx context.Context, c *Config, o Options) *CheckReport {
	c.fillDefaults()
	r := &CheckReport{Login: LoginNotTried, Problems: c.Validate(), Keys: []worker.KeyFinding{}}
	if len(r.Problems) == 0 {
		if err := r.checkToken(ctx, c, o); err != nil {
			r.Problems = append(r.Problems, c.problemOf(err))
		}
		r.Problems = append(r.Problems, c.checkMetricsDates(time.Now())...)
	}
	for _, k := range r.Keys {
		if !k.Proved {
			text := fmt.Sprintf("key set %s version %d: %s", k.Set, k.Version, k.Problem)
			r.Problems = append(r.Problems, Problem{"manifest", text})
		}
	}
	r.OK = len(r.Problems) == 0
	if r.Problems == nil {
		r.Problems = []Problem{}
	}
	return r
}

func (r *CheckReport) checkToken(ctx context.Context, c *Config, o Options) error {
	manifest, err := c.readManifest()
	if err != nil {
		return Problem{"manifest", err.Error()}
	}
	if _, err := os.Stat(c.StateDir); err != nil {
		return Problem{"state_dir", "is not there yet: without it a refused PIN cannot be remembered, so no login is tried"}
	}
	source, err := c.openSourceForCheck(ctx, o)
	if errors.Is(err, errNoLoginYet) {
		r.Vault = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	if c.Vault != nil {
		r.Vault = fmt.Sprintf("the PIN can be read as role %s", c.Vault.Role)
	}
	l, err := newLogins(c, source, o.Log)
	if err != nil {
		return err
	}
	defer l.close()
	none, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("opening %s: %w", os.DevNull, err)
	}
	defer none.Close() //nolint:errcheck // never used
	spawn := newSpawn(c, o)
	spawn.findKey = func(k worker.KeyFinding) { r.Keys = append(r.Keys, k) }
	p, err := spawn.start(0, none)
	if err != nil {
		return err
	}
	report, err := l.attempt(ctx, p, c.bootstrap(worker.ModeCheck, 0, manifest))
	<-p.exited // the findings are complete now
	if stopped, _ := l.state(); stopped != nil {
		r.Login = LoginStopped
	}
	if err != nil {
		return err
	}
	r.Login = LoginOK
	if report.Done == nil {
		return errors.New("worker did not finish the check")
	}
	return nil
}

// problemOf says which configuration key an error is about.
func (c *Config) problemOf(err error) Problem {
	pin := "pin_file"
	if c.Vault != nil {
		pin = "vault.pin_path"
	}
	var p Problem
	var start *startError
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, errStopped):
		return Problem{pin, err.Error()}
	case !errors.As(err, &start):
		return Problem{"module", err.Error()}
	}
	switch start.kind {
	case worker.FailurePINRefused:
		return Problem{pin, start.Error() + "; " + latchHint}
	case worker.FailureTokenNotFound:
		return Problem{"token_label", start.Error()}
	case worker.FailureModuleRefused:
		return Problem{"module_sha256", start.Error()}
	case worker.FailureKeys:
		return Problem{"manifest", start.Error()}
	case worker.FailureModule, worker.FailureInternal:
		return Problem{"module", start.Error()}
	default:
		return Problem{"module", start.Error()}
	}
}
