package keys

import (
	"fmt"

	"github.com/tapseal/tapseal/internal/state"
)

// policyFile is what an assignment says about replay protection, limits and
// velocity. Whatever it leaves out is as in state.DefaultPolicy.
type policyFile struct {
	Replay   *replayFile   `yaml:"replay"`
	Limits   *limitsFile   `yaml:"limits"`
	Velocity *velocityFile `yaml:"velocity"`
}

type replayFile struct {
	Mode          string `yaml:"mode"`           // strict, window, observe
	Window        *int   `yaml:"window"`         // ATCs, 1 to 64
	MaxJump       *int   `yaml:"max_jump"`       // ATCs; 0: any
	OnJump        string `yaml:"on_jump"`        // accept, refuse
	UnderWindow   string `yaml:"under_window"`   // accept, refuse
	UNReuse       string `yaml:"un_reuse"`       // accept, refuse
	UnknownTokens string `yaml:"unknown_tokens"` // accept, refuse
	Remember      *int   `yaml:"remember"`       // requests of a token, 1 to 15
}

type limitsFile struct {
	TokenFailures  *int `yaml:"token_failures"`  // in a row, of one caller
	BackoffSec     *int `yaml:"backoff_sec"`     // of the first wait; doubles
	CallerFailures *int `yaml:"caller_failures"` // in a period
	BINFailures    *int `yaml:"bin_failures"`    // in a period, of one caller
	PeriodSec      *int `yaml:"period_sec"`
}

type velocityFile struct {
	WindowSec int    `yaml:"window_sec"`
	Count     int    `yaml:"count"`
	Amount    int    `yaml:"amount"`   // minor units
	Currency  string `yaml:"currency"` // ISO 4217 numeric
	OnExceed  string `yaml:"on_exceed"`
}

// parse gives the policy. Errors name the key below the assignment.
func (f *policyFile) parse() (*state.Policy, error) {
	p := state.DefaultPolicy()
	for _, part := range []func(*state.Policy) error{f.Replay.apply, f.Limits.apply, f.Velocity.apply} {
		if err := part(&p); err != nil {
			return nil, err
		}
	}
	return &p, nil
}

func (f *replayFile) apply(p *state.Policy) error {
	if f == nil {
		return nil
	}
	modes := map[string]state.Mode{"strict": state.Strict, "window": state.WindowMode, "observe": state.Observe}
	if f.Mode != "" {
		var ok bool
		if p.Mode, ok = modes[f.Mode]; !ok {
			return fmt.Errorf("replay.mode: %q is not strict, window or observe", f.Mode)
		}
	}
	for _, v := range []struct {
		key  string
		text string
		to   *state.Reaction
	}{
		{"on_jump", f.OnJump, &p.OnJump},
		{"under_window", f.UnderWindow, &p.OnUnder},
		{"un_reuse", f.UNReuse, &p.OnUNReuse},
		{"unknown_tokens", f.UnknownTokens, &p.OnUnknown},
	} {
		if err := parseReaction("replay."+v.key, v.text, v.to); err != nil {
			return err
		}
	}
	return firstError(
		setNumber("replay.window", f.Window, 1, state.WindowBits, &p.WindowSize),
		setNumber("replay.max_jump", f.MaxJump, 0, 0xFFFF, &p.MaxJump),
		setNumber("replay.remember", f.Remember, 1, state.MaxAccepted, &p.Remember),
	)
}

func (f *limitsFile) apply(p *state.Policy) error {
	if f == nil {
		return nil
	}
	l := &p.Limits
	return firstError(
		setNumber("limits.token_failures", f.TokenFailures, 0, 100, &l.TokenFailures),
		setNumber("limits.backoff_sec", f.BackoffSec, 1, state.MaxBackoffSec, &l.BackoffSec),
		setNumber("limits.caller_failures", f.CallerFailures, 0, 1<<30, &l.CallerFailures),
		setNumber("limits.bin_failures", f.BINFailures, 0, 1<<30, &l.BINFailures),
		setNumber("limits.period_sec", f.PeriodSec, 1, state.MaxWindowSec, &l.PeriodSec),
	)
}

func (f *velocityFile) apply(p *state.Policy) error {
	if f == nil {
		return nil
	}
	v := &p.Velocity
	switch {
	case f.Count == 0 && f.Amount == 0:
		return fmt.Errorf("velocity: count or amount is needed")
	case f.Amount != 0 && f.Currency == "":
		return fmt.Errorf("velocity.currency: is required beside amount: minor units of different currencies cannot be added")
	case f.Amount == 0 && f.Currency != "":
		return fmt.Errorf("velocity.currency: goes with amount")
	}
	if f.Currency != "" {
		var ok bool
		if v.Currency, ok = state.ParseDigits(f.Currency, 3); !ok {
			return fmt.Errorf("velocity.currency: must be three digits in quotes")
		}
	}
	if err := parseReaction("velocity.on_exceed", f.OnExceed, &p.OnVelocity); err != nil {
		return err
	}
	return firstError(
		setNumber("velocity.window_sec", &f.WindowSec, 1, state.MaxWindowSec, &v.WindowSec),
		setNumber("velocity.count", &f.Count, 0, 0xFFFE, &v.Count),
		setNumber("velocity.amount", &f.Amount, 0, 1<<50, &v.Amount),
	)
}

func parseReaction(key, text string, to *state.Reaction) error {
	switch text {
	case "":
	case "accept":
		*to = state.AcceptWithReason
	case "refuse":
		*to = state.Refuse
	default:
		return fmt.Errorf("%s: %q is not accept or refuse", key, text)
	}
	return nil
}

func setNumber[T uint8 | uint16 | uint32 | uint64](key string, n *int, least, most int, to *T) error {
	if n == nil {
		return nil
	}
	if *n < least || *n > most {
		return fmt.Errorf("%s: must be %d to %d, is %d", key, least, most, *n)
	}
	*to = T(*n)
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
