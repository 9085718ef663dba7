package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
)

// A userPIN is the user PIN of the token and which one it is.
type userPIN struct {
	secret.Secret
	// version names the place and the version of the PIN there, and changes
	// when the PIN is written anew. Nothing in it is made from the PIN. It is
	// empty if nobody can say.
	version string
}

func (p userPIN) clone() userPIN { return userPIN{p.Clone(), p.version} }

// A pinSource gives the user PIN of the token.
type pinSource interface {
	// PIN is asked before a login; the caller wipes the answer. It may take
	// some seconds. An error means that no login may be tried.
	PIN(ctx context.Context) (userPIN, error)
	// Forget drops what the source keeps: the token refused it.
	Forget()
	// Status is for operators; it asks nobody.
	Status() PINStatus
	// Close ends the source.
	Close()
}

// PINStatus says where the PIN comes from. It holds no secret.
type PINStatus struct {
	Source  string `json:"source"`            // "file" or "vault"
	ReadAt  string `json:"read_at,omitempty"` // from Vault, RFC 3339
	Problem string `json:"problem,omitempty"` // why Vault does not give it now: logins go on with the one that was read
}

// Values of PINStatus.Source.
const (
	PINFromFile  = "file"
	PINFromVault = "vault"
)

// A pinFile is read anew for each login, so that a changed PIN needs no
// restart.
type pinFile string

func (f pinFile) PIN(context.Context) (userPIN, error) {
	before := f.version()
	pin, err := secret.ReadPIN(string(f))
	if err != nil {
		return userPIN{}, Problem{"pin_file", err.Error()}
	}
	if f.version() != before { // which of the two was read?
		return userPIN{pin, ""}, nil
	}
	return userPIN{pin, before}, nil
}

// version changes with whatever is done to the file: the time of the inode's
// last change cannot be set, unlike that of the content's.
func (f pinFile) version() string {
	info, err := os.Lstat(string(f))
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("file %s, device %d, inode %d, changed %d.%09d", string(f), st.Dev, st.Ino, st.Ctim.Sec, st.Ctim.Nsec)
}

func (pinFile) Forget()           {}
func (pinFile) Status() PINStatus { return PINStatus{Source: PINFromFile} }
func (pinFile) Close()            {}

// A vaultPIN keeps the PIN for the time that Vault is away.
type vaultPIN struct {
	vault *secrets.Vault
	pin   *secrets.PIN
}

func (v *vaultPIN) PIN(ctx context.Context) (userPIN, error) {
	pin, version, err := v.pin.Read(ctx)
	if err != nil {
		return userPIN{}, vaultProblem(err)
	}
	if version != "" {
		version = "vault " + version
	}
	return userPIN{pin, version}, nil
}

// Forget wipes the kept PIN; the next question asks Vault again.
func (v *vaultPIN) Forget() { v.pin.Close() }

// Status implements pinSource.
func (v *vaultPIN) Status() PINStatus {
	st := PINStatus{Source: PINFromVault}
	at, problem := v.pin.Status()
	if !at.IsZero() {
		st.ReadAt = at.UTC().Format(time.RFC3339)
	}
	if problem != nil {
		st.Problem = problem.Error()
	}
	return st
}

func (v *vaultPIN) Close() {
	v.pin.Close()
	v.vault.Close()
}

// Cold start without Vault.
const (
	// coldStartLimit is how long a start waits for a Vault that is away before
	// it gives up with exit status 1. A service manager starts it again, which
	// also shows the operator that something is wrong; waiting longer than
	// systemd's StartLimitIntervalSec / StartLimitBurst means that systemd
	// never gives up, while an error in the configuration, which fails at
	// once, makes it give up soon.
	coldStartLimit = 20 * time.Second
	coldStartRetry = 500 * time.Millisecond
)

// openVault logs in to Vault and reads the PIN for the first time, which
// leaves it kept. It waits for a Vault that is away, until ctx ends, and for
// nothing else.
func openVault(ctx context.Context, v *Vault, o secrets.Options) (*vaultPIN, error) {
	source := &vaultPIN{}
	for waiting := false; ; waiting = true {
		err := source.begin(ctx, v, o)
		if err == nil {
			return source, nil
		}
		if !errors.Is(err, secrets.ErrAway) || ctx.Err() != nil {
			source.abandon()
			return nil, vaultProblem(err)
		}
		if !waiting {
			o.Log.Warn("waiting for vault", "error", err, "at_most", coldStartLimit.String())
		}
		if !sleep(ctx, coldStartRetry) {
			source.abandon()
			return nil, Problem{"vault.address", fmt.Sprintf(
				"no PIN and so no service: %v; waited %s (hint: a running supervisor survives this, a start does not)", err, coldStartLimit)}
		}
	}
}

func (v *vaultPIN) begin(ctx context.Context, c *Vault, o secrets.Options) (err error) {
	if v.vault == nil {
		if v.vault, err = secrets.Open(ctx, c.Config, o); err != nil {
			v.vault = nil
			return err
		}
		if v.pin, err = secrets.NewPIN(v.vault, c.PINConfig); err != nil {
			return err
		}
	}
	pin, err := v.pin.PIN(ctx)
	pin.Wipe()
	return err
}

func (v *vaultPIN) abandon() {
	if v.vault != nil {
		v.vault.Close()
	}
}

// openSource opens what the configuration names.
func (c *Config) openSource(ctx context.Context, o Options) (pinSource, error) {
	if c.Vault == nil {
		return pinFile(c.PINFile), nil
	}
	ctx, cancel := context.WithTimeout(ctx, coldStartLimit)
	defer cancel()
	return openVault(ctx, c.Vault, secrets.Options{Log: o.Log, Clock: o.Clock})
}

// openSourceForCheck changes nothing: it does not use up a wrapped secret_id.
// Before the first login with that, there is no source.
func (c *Config) openSourceForCheck(ctx context.Context, o Options) (pinSource, error) {
	if c.Vault == nil {
		return pinFile(c.PINFile), nil
	}
	quiet := secrets.Options{Log: slog.New(slog.DiscardHandler), Clock: o.Clock}
	if err := secrets.Check(ctx, c.Vault.Config, &c.Vault.PINConfig, quiet); err != nil {
		return nil, vaultProblem(err)
	}
	kept := *c.Vault
	kept.WrappedSecretID = ""
	source := &vaultPIN{}
	err := source.begin(ctx, &kept, quiet)
	switch {
	case err == nil:
		return source, nil
	case errors.Is(err, secrets.ErrNeedsSecretID):
		err = errNoLoginYet
	default:
		err = vaultProblem(err)
	}
	source.abandon()
	return nil, err
}

// errNoLoginYet means that only a start may go on from here.
var errNoLoginYet = errors.New("no token yet: the wrapped secret_id is for this role and was not used; the next start uses it")
