package authz

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Fault is one thing that is wrong with a policy.
type Fault struct {
	Line    int    `json:"line,omitempty"` // 1 is the first; 0 is unknown
	Key     string `json:"key,omitempty"`  // for example principals[2].roles[0]
	Problem string `json:"problem"`
}

// String is the fault in one line.
func (f Fault) String() string {
	s := f.Problem
	if f.Key != "" {
		s = f.Key + ": " + s
	}
	if f.Line > 0 {
		s = fmt.Sprintf("line %d: %s", f.Line, s)
	}
	return s
}

// An Error lists every fault of a policy.
type Error struct{ Faults []Fault }

// Error is all faults in one line.
func (e *Error) Error() string {
	all := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		all[i] = f.String()
	}
	return strings.Join(all, "; ")
}

// faults collects.
type faults []Fault

func (f *faults) add(line int, key, format string, args ...any) {
	*f = append(*f, Fault{Line: line, Key: key, Problem: fmt.Sprintf(format, args...)})
}

// err is nil without a fault.
func (f *faults) err() error {
	if len(*f) == 0 {
		return nil
	}
	list := slices.Clone(*f)
	slices.SortStableFunc(list, func(a, b Fault) int { return cmp.Compare(a.Line, b.Line) })
	return &Error{Faults: slices.Compact(list)}
}

var (
	nextFault = regexp.MustCompile(`; line \d+: `)
	lineFirst = regexp.MustCompile(`^line (\d+): `)
)

// addParsing adds what the YAML reader says, which is faults joined by "; ".
func (f *faults) addParsing(err error) {
	text := err.Error()
	for text != "" {
		one, rest := text, ""
		if at := nextFault.FindStringIndex(text); at != nil {
			one, rest = text[:at[0]], text[at[0]+2:]
		}
		line := 0
		if m := lineFirst.FindStringSubmatch(one); m != nil {
			line, _ = strconv.Atoi(m[1])
			one = one[len(m[0]):]
		}
		f.add(line, "", "%s", one)
		text = rest
	}
}

// shown quotes what stands in the file, cut to what a message can hold.
func shown(s string) string {
	const most = 80
	if len(s) > most {
		return strconv.QuoteToASCII(s[:most]) + "…"
	}
	return strconv.QuoteToASCII(s)
}
