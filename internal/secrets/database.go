package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tapseal/tapseal/internal/secret"
)

// DatabaseConfig says which credentials to get from Vault's database engine.
type DatabaseConfig struct {
	Mount string `yaml:"database_mount,omitempty"` // default tapseal-database
	Role  string `yaml:"database_role,omitempty"`  // default tapseal-daemon
}

func (c DatabaseConfig) withDefaults() DatabaseConfig {
	if c.Mount == "" {
		c.Mount = DefaultNames().DatabaseMount
	}
	if c.Role == "" {
		c.Role = DefaultNames().Daemon
	}
	return c
}

// Validate says what is wrong, by key.
func (c DatabaseConfig) Validate() error {
	c = c.withDefaults()
	return errors.Join(checkPart("database_mount", c.Mount), checkPart("database_role", c.Role))
}

// Credentials are a database user of our own, for a while.
type Credentials struct {
	Username string
	Password secret.Secret
	Expires  time.Time // unless the lease is renewed
}

func (c Credentials) clone() Credentials {
	c.Password = c.Password.Clone()
	return c
}

// Database keeps the lease of database credentials renewed, and gets new ones
// before the old ones end. Old credentials are left to end by themselves, so
// that connections made with them are not cut.
type Database struct {
	vault    *Vault
	config   DatabaseConfig
	log      *slog.Logger
	clock    Clock
	onChange func(Credentials)

	mu      sync.Mutex // guards what follows
	current Credentials
	lease   string
	first   time.Duration // how long the lease was at first
	rest    time.Duration // how long it was after the last renewal
	problem error

	stop context.CancelFunc
	done sync.WaitGroup
}

// OpenDatabase gets the first credentials, or fails. onChange may be nil; it
// is called from one goroutine with a copy that it has to wipe.
func (v *Vault) OpenDatabase(ctx context.Context, c DatabaseConfig, onChange func(Credentials)) (*Database, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if onChange == nil {
		onChange = func(c Credentials) { c.Password.Wipe() }
	}
	d := &Database{vault: v, config: c.withDefaults(), log: v.log, clock: v.clock, onChange: onChange}
	if err := d.obtain(ctx); err != nil {
		return nil, fmt.Errorf("getting database credentials: %w", err)
	}
	background, stop := context.WithCancel(context.Background())
	d.stop = stop
	d.done.Add(1)
	go d.loop(background, v.newLogin())
	return d, nil
}

// Close stops the renewal and forgets the credentials, whose lease then ends.
func (d *Database) Close() {
	d.stop()
	d.done.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current.Password.Wipe()
}

// Credentials gives the credentials that are good now; the caller wipes the
// password.
func (d *Database) Credentials() (Credentials, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := d.clock.Now(); !now.Before(d.current.Expires) {
		return Credentials{}, fmt.Errorf("database credentials ended %v ago: %w", now.Sub(d.current.Expires).Round(time.Second), d.whyEnded())
	}
	return d.current.clone(), nil
}

func (d *Database) whyEnded() error {
	if d.problem != nil {
		return d.problem
	}
	return ErrAway
}

// Status is when the credentials end and why they could not be renewed.
func (d *Database) Status() (expires time.Time, problem error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.current.Expires, d.problem
}

// obtain gets new credentials.
func (d *Database) obtain(ctx context.Context) error {
	asked := d.clock.Now()
	s, err := d.vault.read(ctx, d.config.Mount+"/creds/"+d.config.Role)
	if err != nil {
		return err
	}
	user, _ := s.Data["username"].(string)
	password, _ := s.Data["password"].(string)
	if user == "" || password == "" || s.LeaseID == "" || s.LeaseDuration <= 0 {
		return fmt.Errorf("%w: no credentials with a lease in the answer", ErrRefused)
	}
	life := time.Duration(s.LeaseDuration) * time.Second
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current.Password.Wipe()
	d.current = Credentials{Username: user, Password: secret.New([]byte(password)), Expires: asked.Add(life)}
	d.lease, d.first, d.rest = s.LeaseID, life, life
	return nil
}

// errLeaseEnds means that the lease gets no full life any more.
var errLeaseEnds = errors.New("the lease comes to its end")

// renew renews the lease; errLeaseEnds comes near its longest life, or when it
// was taken away.
func (d *Database) renew(ctx context.Context) error {
	d.mu.Lock()
	lease, first := d.lease, d.first
	d.mu.Unlock()
	asked := d.clock.Now()
	s, err := d.vault.write(ctx, "sys/leases/renew", map[string]any{"lease_id": lease, "increment": int(first / time.Second)})
	if answered(err) {
		return fmt.Errorf("%w: %w", errLeaseEnds, err)
	}
	if err != nil {
		return err
	}
	life := leaseDuration(s)
	if life <= 0 {
		return errLeaseEnds
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current.Expires, d.rest = asked.Add(life), life
	if life < first/2 {
		return errLeaseEnds
	}
	return nil
}

func leaseDuration(s *api.Secret) time.Duration {
	if s == nil {
		return 0
	}
	if s.LeaseDuration > 0 {
		return time.Duration(s.LeaseDuration) * time.Second
	}
	n, _ := s.Data["lease_duration"].(json.Number)
	seconds, _ := n.Int64()
	return time.Duration(seconds) * time.Second
}

func (d *Database) loop(ctx context.Context, newLogin <-chan struct{}) {
	defer d.done.Done()
	var failed backoff
	wait := d.renewalWait()
	for {
		replace := false
		select {
		case <-ctx.Done():
			return
		case <-newLogin: // the leases of the token before are gone
			replace = true
			newLogin = d.vault.newLogin()
		case <-d.clock.After(wait):
		}
		err := d.refresh(ctx, replace)
		if ctx.Err() != nil {
			return
		}
		d.note(err)
		if err != nil {
			wait = failed.wait()
			continue
		}
		failed.reset()
		wait = d.renewalWait()
	}
}

func (d *Database) renewalWait() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return jitter(max(d.rest/renewFraction, shortestRenewal))
}

func (d *Database) refresh(ctx context.Context, replace bool) error {
	if !replace {
		err := d.renew(ctx)
		if !errors.Is(err, errLeaseEnds) {
			return err
		}
	}
	if err := d.obtain(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	c := d.current.clone()
	d.mu.Unlock()
	d.log.Info("new database credentials", "user", c.Username, "end", c.Expires)
	d.onChange(c)
	return nil
}

func (d *Database) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && d.problem == nil {
		d.log.Warn("database credentials cannot be renewed; the present ones stay in use", "error", err, "end", d.current.Expires)
	}
	d.problem = err
}
