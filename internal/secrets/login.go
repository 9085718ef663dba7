package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/hashicorp/vault/api/auth/approle"

	"github.com/tapseal/tapseal/internal/secret"
)

// maxTokenBytes bounds a token or wrapping token file.
const maxTokenBytes = 4096

const lookupSelf = "auth/token/lookup-self"

// errTokenEnded means that the kept token is good for nothing any more.
var errTokenEnded = errors.New("the kept token has ended")

// logIn takes up the kept token, or else a new wrapped secret_id. It does
// nothing if somebody else logged in since before was read, unless it is 0.
func (v *Vault) logIn(ctx context.Context, before uint64) error {
	v.login.Lock()
	defer v.login.Unlock()
	if before != 0 && v.loginCount() != before {
		return nil
	}
	err := v.takeUpToken(ctx)
	switch {
	case err == nil:
		return nil
	case missing(err), errors.Is(err, errTokenEnded):
		return v.useSecretID(ctx, err)
	}
	return err
}

// takeUpToken goes on with the token of the time before.
func (v *Vault) takeUpToken(ctx context.Context) error {
	token, err := secret.ReadFile(v.config.TokenFile, maxTokenBytes)
	if err != nil {
		return fmt.Errorf("token_file: %w", err)
	}
	defer token.Wipe()
	self, err := v.lookAt(ctx, token)
	if errors.Is(err, ErrDenied) {
		return errTokenEnded
	}
	if err != nil {
		return err
	}
	if err := v.checkOwn(self); err != nil {
		return err
	}
	v.setToken(token)
	v.nowLoggedIn(tokenTTL(self))
	return nil
}

// lookAt asks at the door what a token is: no request of the service can go out
// with it before it was checked, whatever becomes of the question.
func (v *Vault) lookAt(ctx context.Context, token secret.Secret) (*api.Secret, error) {
	token.Use(func(b []byte) { v.door.api.SetToken(string(b)) })
	defer v.door.api.ClearToken()
	return v.door.read(ctx, lookupSelf)
}

func (v *Vault) setToken(token secret.Secret) {
	token.Use(func(b []byte) { v.conn.api.SetToken(string(b)) })
}

func (v *Vault) lookUpSelf(ctx context.Context) (*api.Secret, error) {
	return v.conn.read(ctx, lookupSelf)
}

// checkOwn refuses a token that this role did not get: an administrator's
// token in the file would work, and give the service every right there is.
func (v *Vault) checkOwn(self *api.Secret) error {
	meta, _ := self.Data["meta"].(map[string]any)
	role, _ := meta["role_name"].(string)
	path, _ := self.Data["path"].(string)
	if want := "auth/" + v.config.mount() + "/login"; path != want || role != v.config.Role {
		return fmt.Errorf("token_file: holds a token that did not come from %s of role %q: remove the file and issue a secret_id for the role", want, v.config.Role)
	}
	return nil
}

func tokenTTL(self *api.Secret) time.Duration {
	n, _ := self.Data["ttl"].(json.Number)
	seconds, _ := n.Int64()
	return time.Duration(seconds) * time.Second
}

func (v *Vault) nowLoggedIn(ttl time.Duration) {
	v.setTTL(ttl)
	v.mu.Lock()
	close(v.loggedIn)
	v.loggedIn = make(chan struct{})
	v.logins++
	v.mu.Unlock()
	v.setState(StateReady, "")
}

// useSecretID logs in with a wrapped secret_id, if a new one is there.
func (v *Vault) useSecretID(ctx context.Context, why error) error {
	secretID, err := v.unwrap(ctx)
	if missing(err) || errors.Is(err, errNoWrappedFile) {
		return v.nothingToStartWith(why)
	}
	if err != nil {
		return err
	}
	defer secretID.Wipe()
	token, ttl, err := v.loginWith(ctx, secretID)
	if err != nil {
		return err
	}
	defer token.Wipe()
	if err := secret.WriteFile(v.config.TokenFile, token); err != nil {
		return fmt.Errorf("token_file: %w", err)
	}
	v.setToken(token)
	v.nowLoggedIn(ttl)
	return nil
}

func (v *Vault) nothingToStartWith(why error) error {
	if missing(why) {
		why = errors.New("there is no token from an earlier login")
	}
	return fmt.Errorf("%w: %w, and there is no wrapped_secret_id file: %s", ErrNeedsSecretID, why, v.issueHint())
}

// issueHint is what the operator does.
func (v *Vault) issueHint() string {
	return fmt.Sprintf("issue one with vault write -wrap-ttl=10m -field=wrapping_token -f %s, into %s",
		v.secretIDPath(), v.wrappedName())
}

func (v *Vault) secretIDPath() string {
	return "auth/" + v.config.mount() + "/role/" + v.config.Role + "/secret-id"
}

func (v *Vault) wrappedName() string {
	if v.config.WrappedSecretID == "" {
		return "the file that wrapped_secret_id has to name"
	}
	return "the file " + filepath.Base(v.config.WrappedSecretID)
}

func (v *Vault) loginWith(ctx context.Context, secretID secret.Secret) (secret.Secret, time.Duration, error) {
	var method *approle.AppRoleAuth
	var err error
	secretID.Use(func(b []byte) {
		method, err = approle.NewAppRoleAuth(v.config.RoleID, &approle.SecretID{FromString: string(b)}, approle.WithMountPath(v.config.mount()))
	})
	if err != nil {
		return secret.Secret{}, 0, fmt.Errorf("preparing the login: %w", err)
	}
	answer, err := v.door.do(ctx, func(ctx context.Context) (*api.Secret, error) {
		return v.door.api.Auth().Login(ctx, method)
	})
	v.door.api.ClearToken() // the library keeps it there
	if err == nil && (answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "") {
		err = fmt.Errorf("%w: no token in the answer", ErrRefused)
	}
	if answered(err) {
		return secret.Secret{}, 0, fmt.Errorf("%w: role_id and secret_id were refused (%w): compare role_id, then %s", ErrNeedsSecretID, err, v.issueHint())
	}
	if err != nil {
		return secret.Secret{}, 0, err
	}
	return secret.New([]byte(answer.Auth.ClientToken)), time.Duration(answer.Auth.LeaseDuration) * time.Second, nil
}

// removeFile removes the wrapping token once it is used up.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return withoutPath(err)
	}
	return nil
}
