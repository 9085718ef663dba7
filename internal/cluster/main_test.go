package cluster

import (
	"fmt"
	"os"
	"testing"
)

// bin has the programs, built once.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if built := os.Getenv(builtIn); built != "" {
		bin = built
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "tapseal-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bin = dir
	if err := Build("../..", bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// builtIn names a directory that has the programs already.
const builtIn = "TAPSEAL_CLUSTER_BIN"

// size is how much a test does: in the long form (TAPSEAL_LONG=1), in CI, and
// with -short.
func size(long, ci, short int) int {
	switch {
	case os.Getenv("TAPSEAL_LONG") != "":
		return long
	case testing.Short():
		return short
	}
	return ci
}

// mustHold fails the test if the oracle saw what cannot be right.
func mustHold(t *testing.T, o *Oracle) {
	t.Helper()
	some, all := o.Violations()
	for _, v := range some {
		t.Error(v)
	}
	if all > len(some) {
		t.Errorf("and %d more", all-len(some))
	}
	t.Logf("%+v", o.Counts())
}
