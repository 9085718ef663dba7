package worker

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// PeerUID is the user id of the process at the other end, as the kernel saw
// it when it connected.
func PeerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("asking for the peer: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil {
		return 0, fmt.Errorf("asking for the peer: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("asking for the peer: %w", credErr)
	}
	return cred.Uid, nil
}

type peerError struct{ uid uint32 }

func (e *peerError) Error() string { return fmt.Sprintf("user id %d is not allowed", e.uid) }
