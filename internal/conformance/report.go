package conformance

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// A FileCount says what became of one file.
type FileCount struct {
	File    string `json:"file"`
	Vectors int    `json:"vectors"`
	Run     int    `json:"run"` // passed or failed
	Skipped int    `json:"skipped"`
}

// A Report collects results. The counts overlap as their comments say.
type Report struct {
	Passed  int `json:"passed"`
	Failed  int `json:"failed"`
	Skipped int `json:"skipped"`

	InToken         int            `json:"in_token"`         // of the passed: compared in the token
	SoftwareOnly    int            `json:"software_only"`    // of the passed: answered without the token
	UncertainPassed int            `json:"uncertain_passed"` // of the passed: the source is in doubt
	UncertainFailed int            `json:"uncertain_failed"` // of the failed: the source is in doubt
	SkippedBy       map[string]int `json:"skipped_by"`       // operation, or "skd" and derivation, to count
	Files           []FileCount    `json:"files"`
	Results         []Result       `json:"results,omitempty"` // every vector, in order
	Stopped         string         `json:"stopped,omitempty"` // why not every vector was run
}

// NewReport makes an empty report.
func NewReport() *Report { return &Report{SkippedBy: map[string]int{}} }

// StartFile makes the following results count for a file of n vectors.
func (r *Report) StartFile(name string, n int) {
	r.Files = append(r.Files, FileCount{File: name, Vectors: n})
}

// Unreadable counts a file that cannot be read as one failure.
func (r *Report) Unreadable(name string, err error) Result {
	r.StartFile(name, 0)
	res := Result{File: name, ID: "-", Op: "-", Status: Failed, Step: "file", Problem: err.Error()}
	r.Add(res)
	return res
}

// Add counts a result.
func (r *Report) Add(res Result) {
	r.Results = append(r.Results, res)
	file := &r.Files[len(r.Files)-1]
	switch res.Status {
	case Skipped:
		r.Skipped++
		r.SkippedBy[res.Skip]++
		file.Skipped++
		return
	case Passed:
		r.Passed++
		if res.InToken {
			r.InToken++
		} else {
			r.SoftwareOnly++
		}
		if res.Uncertain {
			r.UncertainPassed++
		}
	default:
		r.Failed++
		if res.Uncertain {
			r.UncertainFailed++
		}
	}
	file.Run++
}

// Line is the report line of a failure.
func (res *Result) Line() string {
	mark := ""
	if res.Uncertain {
		mark = " (the source is marked uncertain)"
	}
	return fmt.Sprintf("FAIL %s %s %s: %s: %s%s", quoteName(res.File), res.ID, res.Op, res.Step, res.Problem, mark)
}

// WriteText writes what comes after the failures. The last line is always
// "N passed, N failed, N skipped".
func (r *Report) WriteText(w io.Writer) error {
	var lines []string
	for i := range r.Files {
		f := &r.Files[i]
		name := quoteName(f.File)
		switch {
		case f.Run > 0:
		case f.Vectors == 0:
			lines = append(lines, "no vectors in "+name)
		case f.Skipped > 0:
			lines = append(lines, fmt.Sprintf("nothing was run from %s: %d of %d skipped", name, f.Skipped, f.Vectors))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.SkippedBy)) {
		lines = append(lines, fmt.Sprintf("skipped %s: %d", name, r.SkippedBy[name]))
	}
	if r.Stopped != "" {
		lines = append(lines, "not every vector was run: "+r.Stopped)
	}
	lines = append(lines,
		fmt.Sprintf("passed in the token %d, in software only %d, uncertain sources %d passed %d failed",
			r.InToken, r.SoftwareOnly, r.UncertainPassed, r.UncertainFailed),
		fmt.Sprintf("%d passed, %d failed, %d skipped", r.Passed, r.Failed, r.Skipped))
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// WriteJSON writes the whole report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}
