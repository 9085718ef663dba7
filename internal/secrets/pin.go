package secrets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/tapseal/tapseal/internal/secret"
)

// pinField is the name of the value in the KV entry.
const pinField = "pin"

// askAgain is how long an absent Vault is not asked again while there is a
// kept PIN: workers are replaced in bursts and would each wait for a timeout.
const askAgain = 5 * time.Second

// PINConfig says where the PIN is.
type PINConfig struct {
	Mount         string `yaml:"kv_mount,omitempty"`            // a KV v2 engine; default tapseal
	Path          string `yaml:"pin_path,omitempty"`            // default hsm/pin; the field is "pin"
	MaxAgeSeconds int    `yaml:"pin_max_age_seconds,omitempty"` // how long a PIN that was read is good for while Vault cannot give it; default 86400
}

func (c PINConfig) withDefaults() PINConfig {
	if c.Mount == "" {
		c.Mount = DefaultNames().KVMount
	}
	if c.Path == "" {
		c.Path = DefaultNames().PINPath
	}
	return c
}

// Validate says what is wrong, by key.
func (c PINConfig) Validate() error {
	c = c.withDefaults()
	errs := []error{checkPart("kv_mount", c.Mount), checkPart("pin_path", c.Path)}
	if c.MaxAgeSeconds < 0 {
		errs = append(errs, errors.New("pin_max_age_seconds: must be positive, or 0 for the default"))
	}
	return errors.Join(errs...)
}

func (c PINConfig) maxAge() time.Duration {
	if c.MaxAgeSeconds == 0 {
		return DefaultPINMaxAge
	}
	return time.Duration(c.MaxAgeSeconds) * time.Second
}

// PIN reads the user PIN of the token from Vault before each login, and keeps
// the last one for the time that Vault cannot give it: away, not found, or this
// identity lost or without the right. Only a version of which the engine says
// that it was deleted or destroyed is forgotten here.
type PIN struct {
	vault  *Vault
	config PINConfig
	log    *slog.Logger
	clock  Clock

	turn chan struct{} // one question at a time; holds one token

	mu      sync.Mutex // guards what follows
	kept    secret.Secret
	version string // of kept
	forgets uint64 // how often it was forgotten: an older answer is not kept
	readAt  time.Time
	failed  time.Time
	problem error
}

// NewPIN makes a source of the PIN. It asks nothing yet.
func NewPIN(v *Vault, c PINConfig) (*PIN, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &PIN{vault: v, config: c.withDefaults(), log: v.log, clock: v.clock, turn: make(chan struct{}, 1)}, nil
}

// PIN gives the PIN; the caller wipes it. The error is ErrAway, ErrDenied and
// so on when there is no kept one that is young enough.
func (p *PIN) PIN(ctx context.Context) (secret.Secret, error) {
	pin, _, err := p.Read(ctx)
	return pin, err
}

// Read is PIN and which one it is: path, number and time of its version in
// Vault, which no other PIN there has. It is empty if Vault does not say.
func (p *PIN) Read(ctx context.Context) (pin secret.Secret, version string, err error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return secret.Secret{}, "", ctx.Err()
	}
	defer func() { <-p.turn }()
	if p.resting() {
		return p.fromKept()
	}
	forgets := p.forgotten()
	if pin, version, err = p.ask(ctx); err == nil {
		return p.keep(pin, version, forgets), version, nil
	}
	p.note(err)
	return p.fromKept()
}

// Status is when the PIN was last read and why it cannot be read now.
func (p *PIN) Status() (readAt time.Time, problem error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.readAt, p.problem
}

// Close forgets the PIN, also one that is on its way here: the token may have
// refused just that one. The next question asks Vault again.
func (p *PIN) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forgets++
	p.kept.Wipe()
}

func (p *PIN) forgotten() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.forgets
}

func (p *PIN) resting() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem != nil && !p.kept.IsZero() && p.clock.Now().Sub(p.failed) < askAgain
}

func (p *PIN) ask(ctx context.Context) (secret.Secret, string, error) {
	answer, err := p.vault.read(ctx, p.path())
	if err != nil {
		return secret.Secret{}, "", err
	}
	pin, err := pinOf(answer)
	return pin, p.versionOf(answer), err
}

func (p *PIN) versionOf(s *api.Secret) string {
	about, _ := s.Data["metadata"].(map[string]any)
	number, created := about["version"], about["created_time"]
	if number == nil || created == nil {
		return ""
	}
	return fmt.Sprintf("%s, version %v of %v", p.path(), number, created)
}

func (p *PIN) path() string { return p.config.Mount + "/data/" + p.config.Path }

// errPINDeleted means that Vault's engine itself says that somebody deleted or
// destroyed the newest version.
var errPINDeleted = fmt.Errorf("%w: the version was deleted", ErrNotFound)

func pinOf(s *api.Secret) (secret.Secret, error) {
	data, _ := s.Data["data"].(map[string]any)
	switch {
	case data != nil:
		return parsePIN(data[pinField])
	case deleted(s):
		return secret.Secret{}, errPINDeleted
	}
	return secret.Secret{}, fmt.Errorf("%w: the answer has no data, and does not say that it was deleted", ErrNotFound)
}

// deleted looks for what KV version 2 alone says, with its 404. A plain 404 may
// come from any box on the way, or for an engine that is not mounted.
func deleted(s *api.Secret) bool {
	about, _ := s.Data["metadata"].(map[string]any)
	at, _ := about["deletion_time"].(string)
	destroyed, _ := about["destroyed"].(bool)
	return at != "" || destroyed
}

func parsePIN(value any) (secret.Secret, error) {
	text, ok := value.(string)
	b := []byte(text)
	switch {
	case !ok:
		return secret.Secret{}, fmt.Errorf("%w: it has no text field %q", ErrRefused, pinField)
	case len(b) == 0 || len(b) > secret.MaxPINBytes:
		return secret.Secret{}, fmt.Errorf("%w: field %q must have 1 to %d bytes", ErrRefused, pinField, secret.MaxPINBytes)
	case bytes.ContainsAny(b, "\r\n\x00"):
		return secret.Secret{}, fmt.Errorf("%w: field %q has a line end or a zero byte in it", ErrRefused, pinField)
	}
	return secret.New(b), nil
}

// keep keeps an answer, unless the PIN was forgotten after the question.
func (p *PIN) keep(pin secret.Secret, version string, forgets uint64) secret.Secret {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.forgets == forgets {
		p.kept.Wipe()
		p.kept, p.version = pin.Clone(), version
	}
	p.readAt = p.clock.Now()
	if p.problem != nil {
		p.log.Info("the PIN can be read from vault again")
	}
	p.problem = nil
	return pin
}

// note remembers why the PIN could not be read. A deleted PIN is a decision
// that was taken about the PIN itself, so the kept one goes as well. A denied
// one is not, nor is one that is not found: a running service goes on while its
// PIN is good.
func (p *PIN) note(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem == nil {
		p.log.Warn("the PIN cannot be read from vault", "error", err, "kept", !p.kept.IsZero())
	}
	if errors.Is(err, errPINDeleted) {
		p.kept.Wipe()
	}
	p.problem, p.failed = err, p.clock.Now()
}

func (p *PIN) fromKept() (secret.Secret, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := fmt.Errorf("reading the PIN at %s/%s: %w", p.config.Mount, p.config.Path, p.problem)
	if p.kept.IsZero() {
		return secret.Secret{}, "", err
	}
	if age := p.clock.Now().Sub(p.readAt); age > p.config.maxAge() {
		p.kept.Wipe()
		return secret.Secret{}, "", fmt.Errorf("%w; the kept PIN was %v old, pin_max_age is %v", err, age.Round(time.Second), p.config.maxAge())
	}
	return p.kept.Clone(), p.version, nil
}
