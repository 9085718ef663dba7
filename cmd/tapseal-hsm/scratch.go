package main

import (
	"os"

	"github.com/tapseal/tapseal/hsm/pkcs11"
	"github.com/tapseal/tapseal/hsm/worker"
)

// ScratchCmd runs plans under keys imported for one request, for known-answer
// vectors. It is started by hsm/scratch, not by people.
type ScratchCmd struct{}

// Run serves requests until standard input ends.
func (ScratchCmd) Run() error {
	if err := worker.HardenProcess(); err != nil {
		return err
	}
	return pkcs11.ServeScratch(os.Stdin, os.Stdout)
}
