// Command devvault is the core of OpenBao as one program, with the engines
// that tapseal uses and nothing else: for tests and for trying things out. It
// initialises and unseals itself and leaves the root token in a file, so
// nothing worth keeping may be put into it.
//
// It has its own module, because its hundreds of dependencies are not
// tapseal's. Build it with `go build` only: `go mod tidy` asks for
// dependencies of tests that module proxies do not have, and go.sum has two
// lines (of go-kms-wrapping's pkcs11 wrapper 2.4.0) that come from the go.sum
// inside the OpenBao module.
//
// When it serves, it prints one line: "ready" and its URL.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	vaulthttp "github.com/openbao/openbao/http"
	"github.com/openbao/openbao/internalshared/configutil"
	"github.com/openbao/openbao/vault"
)

// activeLimit is how long the core may take to become active.
const activeLimit = 10 * time.Second

type options struct {
	listen, cluster string
	storage, dir    string
	seal, sealKey   string
	tlsCert, tlsKey string
	tlsOut          string
	audit, initOut  string
	tokenOut        string
	followStdin     bool
}

func parse() options {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:18200", "address to listen on; port 0 takes a free one")
	flag.StringVar(&o.cluster, "cluster", "127.0.0.1:0", "address between raft nodes")
	flag.StringVar(&o.storage, "storage", "inmem", "inmem, file or raft")
	flag.StringVar(&o.dir, "dir", "", "data directory of file and raft")
	flag.StringVar(&o.seal, "seal", "shamir", "shamir, or static: unseals itself")
	flag.StringVar(&o.sealKey, "seal-key", "", "file with the 32 bytes of the static seal's key")
	flag.StringVar(&o.tlsCert, "tls-cert", "", "certificate file in PEM form; empty is plain HTTP")
	flag.StringVar(&o.tlsKey, "tls-key", "", "key file of the certificate")
	flag.StringVar(&o.tlsOut, "tls-out", "", "make an authority and a certificate for the address, and write the authority to this file")
	flag.StringVar(&o.audit, "audit", "", "audit file")
	flag.StringVar(&o.initOut, "init-out", "", "file for root token and unseal key, written when the storage is new")
	flag.StringVar(&o.tokenOut, "token-out", "", "file for the root token alone, written when the storage is new")
	flag.BoolVar(&o.followStdin, "exit-on-stdin-close", false, "end when standard input is closed, so that it never outlives who started it")
	flag.Parse()
	return o
}

func main() {
	if err := run(parse()); err != nil {
		fmt.Fprintln(os.Stderr, "devvault:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if o.followStdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	o.listen = listener.Addr().String()
	tlsConfig, err := o.tlsConfig()
	if err != nil {
		return fmt.Errorf("preparing TLS: %w", err)
	}
	core, err := newCore(o)
	if err != nil {
		return err
	}
	handler := vaulthttp.Handler.Handler(&vault.HandlerProperties{
		Core:                  core,
		ListenerConfig:        &configutil.Listener{Address: o.listen, TLSDisable: tlsConfig == nil},
		DisablePrintableCheck: true,
	})
	if err := openCluster(core, handler, o); err != nil {
		return err
	}
	if err := open(ctx, core, o); err != nil {
		return err
	}
	defer core.Shutdown()
	return serve(ctx, listener, handler, tlsConfig, o)
}

func serve(ctx context.Context, l net.Listener, h http.Handler, c *tls.Config, o options) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, TLSConfig: c}
	ended := make(chan error, 1)
	go func() {
		if c != nil {
			ended <- server.ServeTLS(l, "", "")
		} else {
			ended <- server.Serve(l)
		}
	}()
	fmt.Println("ready", o.url())
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	if err := server.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (o options) url() string {
	if o.tlsCert != "" || o.tlsOut != "" {
		return "https://" + o.listen
	}
	return "http://" + o.listen
}
