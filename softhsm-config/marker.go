package softhsmconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	markerName   = "tapseal-dev.json"
	markerFormat = 1
)

// ErrForeign means that a directory holds something that is not ours. It is
// never touched.
var ErrForeign = errors.New("the directory holds files that tapseal did not make")

// A marker is the first file in a development directory and the last one to
// change: a bring-up that was killed leaves Complete false.
type marker struct {
	Format   int    `json:"format"`
	Note     string `json:"note"`
	Complete bool   `json:"complete"`
	Vault    string `json:"vault,omitempty"` // name of the directory in Vault; empty: the PIN is in a file
}

// readMarker reports what dir is: nothing yet (false), or ours.
func (l Layout) readMarker() (m marker, ours bool, err error) {
	data, err := os.ReadFile(l.marker())
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, l.mustBeEmpty()
	}
	if err != nil {
		return m, false, fmt.Errorf("reading the marker: %w", err)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, false, fmt.Errorf("reading %s: %w", l.marker(), err)
	}
	if m.Format != markerFormat {
		return m, false, fmt.Errorf("reading %s: format %d, this program knows %d", l.marker(), m.Format, markerFormat)
	}
	return m, true, nil
}

// mustBeEmpty allows nothing but a marker that was cut off while being written,
// and the files of a Vault that was started before.
func (l Layout) mustBeEmpty() error {
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return fmt.Errorf("looking into the directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() != markerName+nextSuffix && (e.Name() != vaultFiles || !e.IsDir()) {
			return fmt.Errorf("%w: %s", ErrForeign, l.Dir)
		}
	}
	return nil
}

func (l Layout) writeMarker(vault string, complete bool) error {
	data, err := json.MarshalIndent(marker{
		Format:   markerFormat,
		Note:     "made by tapseald dev: published test keys only, safe to delete",
		Complete: complete,
		Vault:    vault,
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the marker: %w", err)
	}
	return ReplaceFile(l.marker(), append(data, '\n'), 0o600)
}

// nextSuffix names the file that is about to replace another one.
const nextSuffix = ".next"

// ReplaceFile writes path so that a reader, also one after a crash, sees the
// old or the new content and never a part.
func ReplaceFile(path string, data []byte, mode fs.FileMode) error {
	next := path + nextSuffix
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	f, err := os.OpenFile(next, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("replacing %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
