package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/tapseal/tapseal/cryptogram"
)

// ErrTokenGone is for an executor that cannot take another plan.
var ErrTokenGone = errors.New("the token is gone")

// An Executor runs a plan under a root key that is imported for this plan
// only. An error means that nothing was compared; after ErrTokenGone there is
// no point in going on.
type Executor interface {
	Execute(root [16]byte, p *cryptogram.Plan) (cryptogram.Outcome, error)
}

// Status is what became of a vector. The zero value is not run.
type Status uint8

// What became of a vector.
const (
	NotRun Status = iota
	Passed
	Failed
	Skipped
)

// String is the word of the report.
func (s Status) String() string {
	switch s {
	case Passed:
		return "passed"
	case Failed:
		return "failed"
	case Skipped:
		return "skipped"
	}
	return "not run"
}

// MarshalText is String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Result is the fate of one vector, or of a file that cannot be read (with
// ID and Op "-").
type Result struct {
	File      string `json:"file"`
	ID        string `json:"id"`
	Op        string `json:"op"`
	Status    Status `json:"status"`
	InToken   bool   `json:"in_token"` // at least one comparison was made in the token
	Uncertain bool   `json:"uncertain,omitempty"`
	Step      string `json:"step,omitempty"`    // Failed: the first wrong step
	Problem   string `json:"problem,omitempty"` // Failed: what is wrong with it; no values
	Skip      string `json:"skip,omitempty"`    // Skipped: the operation or derivation that is not implemented
}

// A Runner runs vectors against one executor.
type Runner struct {
	exec  Executor
	table []operation
}

// NewRunner makes a runner.
func NewRunner(exec Executor) *Runner { return &Runner{exec: exec, table: operations()} }

// RunFile runs every vector of a file and calls each with its result, in the
// order of the file. It stops early, with an error, when ctx ends or the token
// is gone: the vector at hand then has no result.
func (r *Runner) RunFile(ctx context.Context, f *File, each func(Result)) error {
	for i, raw := range f.vectors {
		if err := ctx.Err(); err != nil {
			return err
		}
		res, err := r.runVector(i, raw)
		if err != nil {
			return err
		}
		res.File = f.Name
		each(res)
	}
	return nil
}

func (r *Runner) runVector(index int, raw json.RawMessage) (Result, error) {
	v, err := identify(index, raw)
	res := Result{ID: v.id, Op: v.op, Uncertain: v.uncertain}
	if err == nil {
		op := lookupOperation(r.table, v.op)
		if op == nil {
			res.Status, res.Skip = Skipped, v.op
			return res, nil
		}
		err = r.runOperation(&v, op, &res)
	}
	var skip *skipped
	var wrong *wrongStep
	switch {
	case errors.Is(err, ErrTokenGone):
		return res, fmt.Errorf("running %s: %w", v.id, err)
	case err == nil:
		res.Status = Passed
	case errors.As(err, &skip):
		res.Status, res.Skip = Skipped, skip.name
	case errors.As(err, &wrong):
		res.Status, res.Step, res.Problem = Failed, wrong.step, wrong.text
	default:
		res.Status, res.Step, res.Problem = Failed, stepFields, err.Error()
	}
	return res, nil
}

// wrongStep is the error of a vector that was computed and did not agree.
type wrongStep struct{ step, text string }

func (w *wrongStep) Error() string { return w.step + ": " + w.text }

func (r *Runner) runOperation(v *vector, op *operation, res *Result) error {
	if op.keyed {
		if skd := v.unknownSKD(); skd != "" {
			return &skipped{"skd " + skd}
		}
	}
	if err := v.readExpected(); err != nil {
		return err
	}
	if err := v.checkFields(op); err != nil {
		return err
	}
	w, err := op.prepare(v)
	if err != nil {
		return err
	}
	for _, value := range w.values {
		if !value.equal {
			return &wrongStep{stepValue, value.field + " is not what was computed"}
		}
	}
	for i := range w.checks {
		res.InToken = true
		if err := r.runCheck(w, &w.checks[i]); err != nil {
			return err
		}
	}
	return nil
}

// unknownSKD names a derivation that the schema does not have: what other
// fields a vector of it has is not known either. Those that the schema has
// and this program does not are skipped after their fields were checked.
func (v *vector) unknownSKD() string {
	skd, err := v.in.text("skd")
	if err != nil || skd == "" || isSupportedSKD(skd) || skd == "visa_sm" || skd == "emv2000_tree" {
		return ""
	}
	return quoteName(skd)
}

// runCheck makes one comparison in the token and, if it does not come out as
// the vector says, looks for the first step that is wrong.
func (r *Runner) runCheck(w *work, c *check) error {
	status, err := r.status(w.chain, c.plan)
	if err != nil {
		return err
	}
	if (status == cryptogram.Mismatched) == c.mismatch {
		return nil
	}
	if c.mismatch {
		return &wrongStep{c.step, c.field + " is false, and the token found the value right"}
	}
	return r.diagnose(w, c)
}

// status runs a plan with one comparing step.
func (r *Runner) status(chain *keyChain, p *cryptogram.Plan) (cryptogram.StepStatus, error) {
	out, err := r.exec.Execute(chain.root, p)
	if errors.Is(err, ErrTokenGone) {
		return cryptogram.NotRun, err
	}
	if err != nil {
		return cryptogram.NotRun, &wrongStep{stepToken, err.Error()}
	}
	switch s := out.Steps[0].Status; s {
	case cryptogram.Matched, cryptogram.Mismatched:
		return s, nil
	default:
		return s, &wrongStep{stepToken, fmt.Sprintf("the step did not run (status %s)", strconv.Itoa(int(s)))}
	}
}
