// Command testsum reads the output of go test -json, prints what a person
// wants to know – a line for each package, the output of what failed – and
// writes "PASSED FAILED" to the file that it is given.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// event is one line of go test -json, see go doc test2json.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go test -json … | testsum FILE")
		os.Exit(2)
	}
	s := summary{output: make(map[string][]string), failedIn: make(map[string]int)}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		s.line(in.Bytes())
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(os.Stderr, "testsum: reading:", err)
		os.Exit(2)
	}
	counts := fmt.Sprintf("%d %d\n", s.passed, s.failed)
	if err := os.WriteFile(os.Args[1], []byte(counts), 0o600); err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
}

type summary struct {
	passed, failed int
	output         map[string][]string // by package and test
	failedIn       map[string]int      // tests by package
}

func (s *summary) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		fmt.Println(string(line)) // not from a test: a message of the go command
		return
	}
	name := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		s.output[name] = append(s.output[name], e.Output)
	case "build-output":
		fmt.Print(e.Output)
	case "pass", "fail":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e)
		}
		delete(s.output, name)
	}
}

func (s *summary) endTest(e event) {
	if e.Action == "pass" {
		s.passed++
		return
	}
	s.failed++
	s.failedIn[e.Package]++
	fmt.Print(strings.Join(s.output[e.Package+" "+e.Test], ""))
}

func (s *summary) endPackage(e event) {
	if e.Action == "pass" {
		fmt.Printf("ok    %s (%.1f s)\n", e.Package, e.Elapsed)
		return
	}
	if s.failedIn[e.Package] == 0 { // did not build, panicked, or ran out of time
		s.failed++
		fmt.Print(strings.Join(s.output[e.Package+" "], ""))
		for name, out := range s.output {
			if strings.HasPrefix(name, e.Package+" ") && name != e.Package+" " {
				fmt.Print(strings.Join(out, ""))
			}
		}
	}
	fmt.Printf("FAIL  %s (%.1f s)\n", e.Package, e.Elapsed)
}
