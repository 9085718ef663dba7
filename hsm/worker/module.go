package worker

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrModuleRefused means that the file of the module is not the pinned one,
// or that somebody else than its owner or root can exchange it.
var ErrModuleRefused = errors.New("module refused")

// A ModuleHash is the SHA-256 of a module's file. The zero value pins nothing
// and is refused.
type ModuleHash [sha256.Size]byte

// ParseModuleHash reads 64 hexadecimal digits.
func ParseModuleHash(s string) (h ModuleHash, err error) {
	if len(s) != hex.EncodedLen(len(h)) {
		return h, fmt.Errorf("must be %d hexadecimal digits", hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return ModuleHash{}, errors.New("must be hexadecimal digits")
	}
	return h, nil
}

// String is the hexadecimal form.
func (h ModuleHash) String() string { return hex.EncodeToString(h[:]) }

// HashModule gives the hash of a module that only root and this user can
// exchange: the file and every directory on the way to it, through every
// symbolic link, belong to one of the two and nobody else can write to them. A
// directory that others can write to is all right if it is sticky, as /tmp is:
// there they cannot replace what is not theirs. The path must be absolute.
// Errors wrap ErrModuleRefused or are errors of the file.
//
// Between the hash and the loading of the file nobody but those two users can
// change anything, and who has the rights of one of them needs no module.
func HashModule(path string) (ModuleHash, error) {
	real, err := trustedPath(path)
	if err != nil {
		return ModuleHash{}, err
	}
	f, err := os.OpenFile(real, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ModuleHash{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	info, err := f.Stat()
	if err != nil {
		return ModuleHash{}, err
	}
	if !info.Mode().IsRegular() {
		return ModuleHash{}, fmt.Errorf("%w: %s is not a file", ErrModuleRefused, real)
	}
	if err := trusted(real, info); err != nil {
		return ModuleHash{}, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return ModuleHash{}, err
	}
	return ModuleHash(sum.Sum(nil)), nil
}

// CheckModule refuses any module but the pinned one.
func CheckModule(path string, want ModuleHash) error {
	got, err := HashModule(path)
	if err != nil {
		return err
	}
	if want == (ModuleHash{}) {
		return fmt.Errorf("%w: no hash is given; that of the file is %s", ErrModuleRefused, got)
	}
	if got != want {
		return fmt.Errorf("%w: its hash is %s, not the pinned one", ErrModuleRefused, got)
	}
	return nil
}

// maxLinks is as many symbolic links as the kernel follows in a path.
const maxLinks = 40

// trustedPath follows path one name at a time and gives it without symbolic
// links. filepath.EvalSymlinks would not say which directories it went through.
func trustedPath(path string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%w: its path is not absolute", ErrModuleRefused)
	}
	done, rest, links := "/", path, 0
	for {
		info, err := os.Lstat(done)
		if err != nil {
			return "", err
		}
		rest = strings.TrimLeft(rest, "/")
		switch {
		case info.Mode().Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%w: too many symbolic links", ErrModuleRefused)
			}
			if err := trustedOwner(done, info); err != nil {
				return "", err
			}
			target, err := os.Readlink(done)
			if err != nil {
				return "", err
			}
			rest = target + "/" + rest
			if done = filepath.Dir(done); filepath.IsAbs(target) {
				done = "/"
			}
			continue
		case info.IsDir():
			if err := trusted(done, info); err != nil {
				return "", err
			}
		}
		if rest == "" {
			return done, nil
		}
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		done = filepath.Join(done, name) // also takes .. up, after its link was followed
	}
}

func trusted(path string, info fs.FileInfo) error {
	if err := trustedOwner(path, info); err != nil {
		return err
	}
	others := info.Mode().Perm() & 0o022
	if others != 0 && (!info.IsDir() || info.Mode()&fs.ModeSticky == 0) {
		return fmt.Errorf("%w: %s can be written by others: its mode is %04o", ErrModuleRefused, path, info.Mode().Perm())
	}
	return nil
}

func trustedOwner(path string, info fs.FileInfo) error { return ownedBy(path, info, os.Geteuid()) }

func ownedBy(path string, info fs.FileInfo, own int) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: %s has no owner", ErrModuleRefused, path)
	}
	if st.Uid != 0 && int(st.Uid) != own {
		return fmt.Errorf("%w: %s belongs to user id %d, must belong to root or user id %d", ErrModuleRefused, path, st.Uid, own)
	}
	return nil
}
