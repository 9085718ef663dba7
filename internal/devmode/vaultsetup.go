package devmode

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tapseal/tapseal/hsm/supervisor"
	"github.com/tapseal/tapseal/internal/config"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

const (
	// maxAdminTokenBytes bounds an administrator's token.
	maxAdminTokenBytes = 4096
	// wrapLife is long enough for a start on a machine that is busy.
	wrapLife = 10 * time.Minute
	// daemonState is the directory of the daemon's identity at Vault; the
	// supervisor's is its state directory.
	daemonState = "daemon"

	wrappedFile = "wrapped-secret-id"
	tokenFile   = "vault-token"
)

// A setup has the administrator's rights at Vault.
type setup struct {
	order  *setupOrder
	name   string
	names  secrets.Names
	admin  *secrets.Admin
	layout softhsmconfig.Layout
}

func newSetup(o *setupOrder, name string) (*setup, error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	token, err := secret.ReadFile(o.Vault.TokenFile, maxAdminTokenBytes)
	if err != nil {
		return nil, fmt.Errorf("vault token file: %w", err)
	}
	defer token.Wipe()
	admin, err := secrets.NewAdmin(o.Vault.server(), token)
	if err != nil {
		return nil, err
	}
	return &setup{order: o, name: name, names: vaultNames(name), admin: admin, layout: softhsmconfig.Layout{Dir: dir}}, nil
}

// vault writes what tapseal vault-setup would, under the names of the directory.
func (s *setup) vault(ctx context.Context) error {
	plan, err := secrets.NewPlan(secrets.SetupConfig{Names: s.names, TrustDomain: trustDomain(s.name)})
	if err != nil {
		return err
	}
	_, err = plan.Apply(ctx, s.admin, false)
	return err
}

// token makes the token, or takes up the one whose PIN is in Vault.
func (s *setup) token(ctx context.Context) (made bool, err error) {
	where := secrets.PINConfig{Mount: s.names.KVMount, Path: s.names.PINPath}
	has, err := s.admin.HasPIN(ctx, where)
	if err != nil {
		return false, err
	}
	identity, err := s.identity(ctx, s.names.HSM, filepath.Base(s.layout.State()))
	if err != nil {
		return false, err
	}
	_, made, err = softhsmconfig.Prepare(ctx, s.layout.Dir, softhsmconfig.Options{
		HSMBinary: s.order.HSMBinary, Module: s.order.Module,
		Vault: &softhsmconfig.Vault{
			Name: s.name, HasPIN: has,
			Put:    func(ctx context.Context, pin secret.Secret) error { return s.admin.PutPIN(ctx, where, pin) },
			Config: supervisor.Vault{Config: identity, PINConfig: where},
		},
	})
	return made, err
}

// identity is how a service logs in. Its files are in dir.
func (s *setup) identity(ctx context.Context, role, dir string) (secrets.Config, error) {
	mount := secrets.DefaultNames().AppRoleMount
	id, err := s.admin.RoleID(ctx, mount, role)
	if err != nil {
		return secrets.Config{}, err
	}
	return secrets.Config{Server: s.order.Vault.server(), Identity: secrets.Identity{
		Role: role, RoleID: id,
		WrappedSecretID: filepath.Join(dir, wrappedFile), TokenFile: filepath.Join(dir, tokenFile),
	}}, nil
}

// services gives both their identities, and everybody a certificate.
func (s *setup) services(ctx context.Context) error {
	if err := s.daemonConfig(ctx); err != nil {
		return err
	}
	for role, dir := range map[string]string{
		s.names.HSM: s.layout.State(), s.names.Daemon: filepath.Join(s.layout.Dir, daemonState),
	} {
		if err := s.secretID(ctx, role, dir); err != nil {
			return err
		}
	}
	return s.certificates(ctx)
}

// secretID begins anew: the token of the time before may be of another Vault.
func (s *setup) secretID(ctx context.Context, role, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Remove(filepath.Join(dir, tokenFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	wrapped, err := s.admin.WrapSecretID(ctx, secrets.DefaultNames().AppRoleMount, role, wrapLife)
	if err != nil {
		return err
	}
	defer wrapped.Wipe()
	if err := secret.WriteFile(filepath.Join(dir, wrappedFile), wrapped); err != nil {
		return fmt.Errorf("writing the wrapped secret_id of %s: %w", role, err)
	}
	return nil
}

// daemonConfig writes the daemon's configuration, or follows Vault to another
// address in one that is there.
func (s *setup) daemonConfig(ctx context.Context) error {
	identity, err := s.identity(ctx, s.names.Daemon, daemonState)
	if err != nil {
		return err
	}
	path := filepath.Join(s.layout.Dir, daemonFile)
	cfg := newDaemonConfig()
	data, err := os.ReadFile(path)
	if err == nil {
		cfg, err = config.ParseDaemon(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", daemonFile, err)
	}
	identity.TimeoutMS = cfg.TLS.Vault.TimeoutMS
	cfg.TLS = config.TLS{RefreshSec: cfg.TLS.RefreshSec, Vault: config.Vault{
		Config: identity,
		PKIConfig: secrets.PKIConfig{
			Mount: s.names.PKIMount, Role: s.names.Daemon, URI: "spiffe://" + trustDomain(s.name) + "/tapseal/daemon",
			DNSNames: []string{"localhost"}, IPAddresses: []string{"127.0.0.1", "::1"},
		},
	}}
	cfg.Admin.ClientCA, cfg.Admin.CRL = "", ""
	cfg.Metrics.ClientCA, cfg.Metrics.CRL = "", ""
	return writeDaemonConfig(path, cfg)
}

// certificates are of everybody who deals with the service. The authority's key
// stays in Vault.
func (s *setup) certificates(ctx context.Context) error {
	authorities, err := s.admin.Authorities(ctx, s.names.PKIMount)
	if err != nil {
		return err
	}
	return ensureSigned(s.layout.Dir, vaultPeople(s.name), authorities, time.Now(), func(request []byte) ([]byte, error) {
		return s.admin.SignCertificate(ctx, s.names.PKIMount, s.names.Client, request)
	})
}
