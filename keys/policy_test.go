package keys

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/internal/state"
)

// onePolicy is an assignment with further keys.
func onePolicy(more string) []byte {
	return []byte(`
assignments:
  - name: pboc
    bins: ["6226"]
    scheme: pboc
    profiles: [pboc-tdes]
    keys: [{dki: any, key_set: pboc-test, version: 1}]
` + more)
}

func TestPolicyOfAnAssignment(t *testing.T) {
	for _, c := range []struct {
		name, yaml string
		change     func(*state.Policy)
	}{
		{"nothing said", "", func(*state.Policy) {}},
		{"mode", "    replay: {mode: strict}\n", func(p *state.Policy) { p.Mode = state.Strict }},
		{
			"replay", "    replay: {mode: observe, window: 64, max_jump: 0, on_jump: refuse, under_window: accept, un_reuse: refuse, unknown_tokens: refuse, remember: 15}\n",
			func(p *state.Policy) {
				p.Mode, p.WindowSize, p.MaxJump, p.Remember = state.Observe, 64, 0, 15
				p.OnJump, p.OnUnder, p.OnUNReuse, p.OnUnknown = state.Refuse, state.AcceptWithReason, state.Refuse, state.Refuse
			},
		},
		{
			"limits", "    limits: {token_failures: 0, backoff_sec: 1, caller_failures: 2, bin_failures: 3, period_sec: 4}\n",
			func(p *state.Policy) {
				p.Limits = state.Limits{BackoffSec: 1, CallerFailures: 2, BINFailures: 3, PeriodSec: 4}
			},
		},
		{
			"velocity", "    velocity: {window_sec: 60, count: 5, amount: 10000, currency: \"978\", on_exceed: accept}\n",
			func(p *state.Policy) {
				p.Velocity = state.VelocityRule{WindowSec: 60, Count: 5, Amount: 10000, Currency: 0x978}
				p.OnVelocity = state.AcceptWithReason
			},
		},
	} {
		a, err := ParseAssignments(onePolicy(c.yaml))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := state.DefaultPolicy()
		c.change(&want)
		if diff := cmp.Diff(&want, a.list[0].policy); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

func TestPolicyFaultsNameTheKey(t *testing.T) {
	for yaml, want := range map[string]string{
		"replay: {mode: lenient}":                              `replay.mode: "lenient"`,
		"replay: {window: 0}":                                  "replay.window: must be 1 to 64, is 0",
		"replay: {window: 65}":                                 "replay.window: must be 1 to 64",
		"replay: {max_jump: 65536}":                            "replay.max_jump",
		"replay: {remember: 16}":                               "replay.remember",
		"replay: {on_jump: maybe}":                             `replay.on_jump: "maybe"`,
		"replay: {windows: 3}":                                 `"windows"`,
		"limits: {token_failures: -1}":                         "limits.token_failures",
		"limits: {period_sec: 0}":                              "limits.period_sec",
		"velocity: {window_sec: 60}":                           "count or amount is needed",
		"velocity: {count: 5}":                                 "velocity.window_sec",
		"velocity: {window_sec: 60, amount: 5}":                "velocity.currency: is required",
		"velocity: {window_sec: 60, count: 5, currency: 978}":  "velocity.currency: goes with amount",
		"velocity: {window_sec: 6, amount: 5, currency: EUR}":  "velocity.currency: must be three digits",
		"velocity: {window_sec: 60, count: 5, on_exceed: no-}": "velocity.on_exceed",
	} {
		_, err := ParseAssignments(onePolicy("    " + yaml + "\n"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", yaml, err, want)
		}
	}
}
