package secrets

import (
	"errors"
	"io/fs"
	"os"
)

var errNoCertificate = errors.New("has no certificate in PEM form")

// withoutPath keeps the reason of an error: a configuration key says which file.
func withoutPath(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	var linkErr *os.LinkError
	if errors.As(err, &linkErr) {
		return linkErr.Err
	}
	return err
}
