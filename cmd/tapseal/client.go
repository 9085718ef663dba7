package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/clientcontext"
	"github.com/tapseal/tapseal/internal/shell"
)

// contextFile is the path that --context or TAPSEAL_CONTEXT gave.
type contextFile string

// load reads the context, with a hint for whoever has none.
func (f contextFile) load() (*clientcontext.Context, error) {
	const hint = `(hint: "tapseald dev --dir DIR" writes DIR/context.yaml; give it with --context or ` + clientcontext.EnvName + `)`
	if f == "" {
		return nil, fmt.Errorf("no context: nothing says where the service is %s", hint)
	}
	c, err := clientcontext.Load(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w %s", err, hint)
	}
	return c, err
}

// start is the command that brings the service of a development context up.
func (f contextFile) start(c *clientcontext.Context) string {
	if c.Phone == "" {
		return "is tapseald running there?"
	}
	return "start it: tapseald dev --dir " + shell.Quote(filepath.Dir(string(f)))
}

// dial makes a client. Nothing is connected before the first call.
func dial(c *clientcontext.Context) (tapsealv1.CryptogramServiceClient, *grpc.ClientConn, error) {
	tls, err := c.TLSConfig()
	if err != nil {
		return nil, nil, err
	}
	conn, err := grpc.NewClient(c.Address, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		return nil, nil, fmt.Errorf("connecting to %s: %w", c.Address, err)
	}
	return tapsealv1.NewCryptogramServiceClient(conn), conn, nil
}

// callError says in the user's terms why a call gave no answer.
func (f contextFile) callError(c *clientcontext.Context, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch s.Code() {
	case codes.InvalidArgument:
		return fmt.Errorf("the service refused the tap: %s", s.Message())
	case codes.Unavailable:
		return fmt.Errorf("cannot reach the service at %s: %s (hint: %s)", c.Address, s.Message(), f.start(c))
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer from the service at %s in time", c.Address)
	default:
		return fmt.Errorf("the service at %s answered %s: %s", c.Address, s.Code(), s.Message())
	}
}
