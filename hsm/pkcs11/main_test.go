package pkcs11

import (
	"fmt"
	"os"
	"testing"
)

// TestMain lets the test binary stand in for tapseal-hsm, so that the clients
// of the admin and scratch roles run against real processes, and for another
// process that takes a key away.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "admin":
			exit(ServeAdmin(os.Stdin, os.Stdout))
		case "scratch":
			exit(ServeScratch(os.Stdin, os.Stdout))
		case "destroy":
			exit(destroyKey(os.Stdin))
		}
	}
	os.Exit(m.Run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
