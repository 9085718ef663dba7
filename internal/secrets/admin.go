package secrets

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tapseal/tapseal/internal/secret"
)

// An Admin acts with an administrator's token, which it does not keep: for the
// set-up, and to give services their identities. No service has one.
type Admin struct{ conn *connection }

// NewAdmin makes a client with an administrator's token. It asks nothing yet.
func NewAdmin(s Server, token secret.Secret) (*Admin, error) {
	conn, err := newConnection(s)
	if err != nil {
		return nil, err
	}
	token.Use(func(b []byte) { conn.api.SetToken(string(b)) })
	return &Admin{conn: conn}, nil
}

// Close forgets the token.
func (a *Admin) Close() {
	a.conn.api.ClearToken()
	a.conn.close()
}

// RoleID reads the role_id of an AppRole, which goes into configuration.
func (a *Admin) RoleID(ctx context.Context, mount, role string) (string, error) {
	s, err := a.conn.read(ctx, "auth/"+mount+"/role/"+role+"/role-id")
	if err != nil {
		return "", fmt.Errorf("reading the role_id of %s: %w", role, err)
	}
	id, _ := s.Data["role_id"].(string)
	if id == "" {
		return "", fmt.Errorf("reading the role_id of %s: %w", role, ErrNotFound)
	}
	return id, nil
}

// WrapSecretID makes a secret_id that nobody has seen: the wrapping token
// gives it to whoever unwraps first, within ttl. Put it into the file that
// wrapped_secret_id names, with secret.WriteFile.
func (a *Admin) WrapSecretID(ctx context.Context, mount, role string, ttl time.Duration) (secret.Secret, error) {
	path := "auth/" + mount + "/role/" + role + "/secret-id"
	a.conn.api.SetWrappingLookupFunc(func(string, string) string { return fmt.Sprintf("%ds", int(ttl.Seconds())) })
	defer a.conn.api.SetWrappingLookupFunc(noWrapping)
	s, err := a.conn.write(ctx, path, nil)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("making a secret_id of %s: %w", role, err)
	}
	if s == nil || s.WrapInfo == nil || s.WrapInfo.Token == "" {
		return secret.Secret{}, fmt.Errorf("making a secret_id of %s: %w: it is not wrapped", role, ErrRefused)
	}
	return secret.New([]byte(s.WrapInfo.Token)), nil
}

func noWrapping(string, string) string { return "" }

// PutPIN writes a version of the PIN.
func (a *Admin) PutPIN(ctx context.Context, c PINConfig, pin secret.Secret) error {
	c = c.withDefaults()
	var err error
	pin.Use(func(b []byte) {
		data := map[string]any{"data": map[string]any{pinField: string(b)}}
		_, err = a.conn.do(ctx, func(ctx context.Context) (*api.Secret, error) {
			return a.conn.api.Logical().WriteWithContext(ctx, c.Mount+"/data/"+c.Path, data)
		})
	})
	if err != nil {
		return fmt.Errorf("writing the PIN: %w", err)
	}
	return nil
}
