package supervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// listenBacklog holds connections while a worker is replaced.
const listenBacklog = 64

// makeDir makes the directory if it is not there and checks it.
func makeDir(key, path string, mode, forbidden fs.FileMode) error {
	if err := os.MkdirAll(path, mode); err != nil {
		return Problem{key, withoutPath(err).Error()}
	}
	if err := checkDir(path, forbidden); err != nil {
		return Problem{key, err.Error()}
	}
	return nil
}

// listen makes a listening Unix socket at path, in place of one that a dead
// supervisor left. It gets its mode under another name first, so that there
// is no moment in which the wrong user may connect. The descriptor does not
// block: workers share its file description.
func listen(path string, mode uint32) (*os.File, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listening on %s: there is something that is not a socket", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: tmp})
	if err == nil {
		err = unix.Chmod(tmp, mode)
	}
	if err == nil {
		err = unix.Listen(fd, listenBacklog)
	}
	if err == nil {
		err = unix.Rename(tmp, path)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// socketMode lets the daemon connect: it is another user only with a group in
// common.
func (c *Config) socketMode() uint32 {
	if *c.DaemonUID == uint32(os.Geteuid()) { //nolint:gosec // a user id is never negative
		return 0o600
	}
	return 0o660
}
