package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	tapsealv1 "github.com/tapseal/tapseal/api/tapseal/v1"
	"github.com/tapseal/tapseal/internal/clientcontext"
)

// adminWithin bounds a call of the administration.
const adminWithin = 15 * time.Second

// administration calls the service as one who may administer it.
func (f contextFile) administration(role string, call func(context.Context, tapsealv1.AdminServiceClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), adminWithin)
	defer cancel()
	return f.administrationUntil(ctx, role, call)
}

// administrationUntil is administration for a call that lasts.
func (f contextFile) administrationUntil(ctx context.Context, role string, call func(context.Context, tapsealv1.AdminServiceClient) error) error {
	where, err := f.administrator(role)
	if err != nil {
		return err
	}
	tls, err := where.TLSConfig()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(where.Admin, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", where.Admin, err)
	}
	defer func() { _ = conn.Close() }()
	err = call(ctx, tapsealv1.NewAdminServiceClient(conn))
	return adminError(where, role, err)
}

// administrator is the context itself, if it says where the administration is,
// or the one of the role beside it, as development mode writes them.
func (f contextFile) administrator(role string) (*clientcontext.Context, error) {
	c, err := f.load()
	if err != nil || c.Admin != "" {
		return c, err
	}
	beside := filepath.Join(filepath.Dir(string(f)), clientcontext.RoleFileName(role))
	if _, err := os.Stat(beside); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("context %s does not say where the administration is, and there is no %s beside it (hint: a context with the key admin, of one whose role is %s)",
			f, filepath.Base(beside), role)
	}
	if c, err = clientcontext.Load(beside); err == nil && c.Admin == "" {
		err = fmt.Errorf("context %s does not say where the administration is: key admin", beside)
	}
	return c, err
}

// adminError says in the user's terms why there is no answer.
func adminError(c *clientcontext.Context, role string, err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.PermissionDenied:
		return fmt.Errorf("%s (hint: a context of one whose role is %s)", s.Message(), role)
	case codes.FailedPrecondition, codes.InvalidArgument, codes.Unauthenticated, codes.NotFound, codes.OutOfRange:
		return errors.New(s.Message())
	case codes.Unavailable:
		return fmt.Errorf("the administration at %s: %s", c.Admin, s.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer from the administration at %s in time", c.Admin)
	default:
		return fmt.Errorf("the administration at %s answered %s: %s", c.Admin, s.Code(), s.Message())
	}
}

// errNoReason asks for what goes into the journal.
var errNoReason = errors.New("--reason is required: it goes into the journal")
