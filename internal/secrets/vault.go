package secrets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
)

// A State is how an identity stands with Vault. The zero value is no state.
type State uint8

// States of an identity.
const (
	StateReady         State = iota + 1 // the token is good as far as we know
	StateAway                           // no answer; what was read is still good
	StateNeedsSecretID                  // the token is gone: an operator must act
)

// String is the word for status pages and metrics.
func (s State) String() string {
	switch s {
	case StateReady:
		return "ready"
	case StateAway:
		return "away"
	case StateNeedsSecretID:
		return "needs-secret-id"
	}
	return "unknown"
}

// Status is for operators. It holds no secret.
type Status struct {
	State        State
	Since        time.Time
	Detail       string    // one sentence; empty when ready
	TokenExpires time.Time // unless renewed
}

// Times of the renewal of the token.
const (
	// renewFraction of its life: a token of the shipped role (2 hours) always
	// has 80 minutes left, which is how long Vault may be away.
	renewFraction = 3
	// wrappedPoll is how often a service without a token looks for a new
	// wrapped secret_id.
	wrappedPoll = 15 * time.Second
	// shortestRenewal keeps a token at its last seconds from being renewed in a loop.
	shortestRenewal = time.Second
)

// A Vault is one identity at a Vault or OpenBao server: it logs in, keeps its
// token renewed, and reads.
type Vault struct {
	config Config
	log    *slog.Logger
	clock  Clock
	conn   *connection // has the token, once it was checked
	door   *connection // logs in; has a token only while that is looked at

	login sync.Mutex // one login at a time

	mu       sync.Mutex // guards what follows
	status   Status
	ttl      time.Duration
	loggedIn chan struct{} // closed at the next login
	logins   uint64

	stop context.CancelFunc
	done sync.WaitGroup
}

// Open logs in and starts to renew the token. It fails closed: without an
// identity there is no Vault. Close ends it; the token is left valid, for the
// next start.
func Open(ctx context.Context, c Config, o Options) (*Vault, error) {
	v, err := newVault(c, o)
	if err != nil {
		return nil, err
	}
	if err := v.logIn(ctx, 0); err != nil {
		v.closeConnections()
		return nil, fmt.Errorf("logging in to vault at %s as role %q: %w", c.Address, c.Role, err)
	}
	background, stop := context.WithCancel(context.Background())
	v.stop = stop
	v.done.Add(1)
	go v.renewLoop(background)
	return v, nil
}

func newVault(c Config, o Options) (*Vault, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	conn, err := newConnection(c.Server)
	if err != nil {
		return nil, err
	}
	door, err := newConnection(c.Server)
	if err != nil {
		return nil, err
	}
	return &Vault{config: c, log: o.Log, clock: o.Clock, conn: conn, door: door, loggedIn: make(chan struct{})}, nil
}

// Close stops the renewal. Sources that were made from it must be closed before.
func (v *Vault) Close() {
	v.stop()
	v.done.Wait()
	v.closeConnections()
}

func (v *Vault) closeConnections() {
	v.conn.close()
	v.door.close()
}

// Status says how things stand.
func (v *Vault) Status() Status {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.status
}

func (v *Vault) setState(s State, detail string) {
	v.mu.Lock()
	changed := v.status.State != s
	if changed {
		v.status.State, v.status.Since = s, v.clock.Now()
	}
	v.status.Detail = detail
	v.mu.Unlock()
	if !changed {
		return
	}
	if s == StateReady {
		v.log.Info("vault is there", "role", v.config.Role)
		return
	}
	v.log.Error("no identity at vault", "state", s.String(), "role", v.config.Role, "detail", detail)
}

// noteError keeps the state right after a failed request.
func (v *Vault) noteError(err error) {
	switch {
	case errors.Is(err, ErrNeedsSecretID):
		v.setState(StateNeedsSecretID, err.Error())
	case errors.Is(err, ErrAway), errors.Is(err, ErrUntrusted):
		v.setState(StateAway, err.Error())
	}
}

// newLogin is closed when the identity has a new token: leases of the old one
// are gone then.
func (v *Vault) newLogin() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.loggedIn
}

func (v *Vault) read(ctx context.Context, path string) (*api.Secret, error) {
	return v.call(ctx, func() (*api.Secret, error) { return v.conn.read(ctx, path) })
}

func (v *Vault) list(ctx context.Context, path string) (*api.Secret, error) {
	return v.call(ctx, func() (*api.Secret, error) { return v.conn.list(ctx, path) })
}

func (v *Vault) write(ctx context.Context, path string, data map[string]any) (*api.Secret, error) {
	return v.call(ctx, func() (*api.Secret, error) { return v.conn.write(ctx, path, data) })
}

// call runs a request, and once more if a refusal came from a token that had
// ended and a new secret_id was there.
func (v *Vault) call(ctx context.Context, f func() (*api.Secret, error)) (*api.Secret, error) {
	v.mu.Lock()
	before := v.logins
	v.mu.Unlock()
	s, err := f()
	if errors.Is(err, ErrDenied) {
		again, loginErr := v.afterDenied(ctx, before)
		if loginErr != nil {
			return nil, loginErr
		}
		if again {
			s, err = f()
		}
	}
	if err != nil {
		v.noteError(err)
		return nil, err
	}
	if v.Status().State == StateAway { // a lost identity comes back by a login only
		v.setState(StateReady, "")
	}
	return s, nil
}

// afterDenied tells a token that ended from a right that was taken away:
// Vault answers both with 403.
func (v *Vault) afterDenied(ctx context.Context, before uint64) (again bool, err error) {
	_, err = v.lookUpSelf(ctx)
	switch {
	case err == nil:
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.logins != before, nil
	case !errors.Is(err, ErrDenied):
		v.noteError(err)
		return false, err
	}
	if err := v.logIn(ctx, before); err != nil {
		v.noteError(err)
		return false, err
	}
	return true, nil
}

func (v *Vault) renewLoop(ctx context.Context) {
	defer v.done.Done()
	var failed backoff
	wait := v.renewalWait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.clock.After(wait):
		}
		err := v.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failed.reset()
			wait = v.renewalWait()
		case errors.Is(err, ErrNeedsSecretID):
			wait = jitter(wrappedPoll)
		default:
			v.log.Warn("could not renew the vault token", "error", err)
			wait = failed.wait()
		}
	}
}

func (v *Vault) renewalWait() time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ttl == 0 { // never ends: look at it now and then
		return jitter(time.Hour)
	}
	return jitter(max(v.ttl/renewFraction, shortestRenewal))
}

// renew renews the token, or logs in anew if it has ended.
func (v *Vault) renew(ctx context.Context) error {
	if v.Status().State == StateNeedsSecretID {
		err := v.logIn(ctx, v.loginCount())
		if err != nil {
			v.noteError(err)
		}
		return err
	}
	s, err := v.write(ctx, "auth/token/renew-self", nil)
	if err != nil {
		return err
	}
	if s == nil || s.Auth == nil {
		return fmt.Errorf("%w: no token in the answer to a renewal", ErrRefused)
	}
	v.setTTL(time.Duration(s.Auth.LeaseDuration) * time.Second)
	return nil
}

func (v *Vault) loginCount() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.logins
}

func (v *Vault) setTTL(ttl time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ttl = ttl
	v.status.TokenExpires = time.Time{}
	if ttl > 0 {
		v.status.TokenExpires = v.clock.Now().Add(ttl)
	}
}
