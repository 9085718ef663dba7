package server

import (
	"net"

	"github.com/tapseal/tapseal/internal/listen"
)

// limitListener is what each listener of the daemon goes through: a connection
// is a *listen.Conn then.
func limitListener(l net.Listener, connections int, full func()) net.Listener {
	return listen.Limit(l, connections, full)
}
