package main

import (
	"os"

	"github.com/tapseal/tapseal/hsm/pkcs11"
	"github.com/tapseal/tapseal/hsm/worker"
)

// AdminCmd does one act on keys or tokens: an order on standard input, its
// result on standard output. It is started by hsm/admin, not by people.
type AdminCmd struct{}

// Run reads the order, acts and answers.
func (AdminCmd) Run() error {
	if err := worker.HardenProcess(); err != nil {
		return err
	}
	return pkcs11.ServeAdmin(os.Stdin, os.Stdout)
}
