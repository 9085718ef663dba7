package main

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// hideTyping turns off the echo if r is a terminal, and gives what turns it on
// again; nil if it is none.
func hideTyping(r io.Reader) (restore func(), err error) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, nil
	}
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, nil //nolint:nilerr // not a terminal
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &quiet); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}
