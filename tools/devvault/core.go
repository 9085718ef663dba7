package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	wrapping "github.com/openbao/go-kms-wrapping/v2"
	statickms "github.com/openbao/go-kms-wrapping/wrappers/static/v2"
	"github.com/openbao/openbao/audit"
	auditfile "github.com/openbao/openbao/builtin/audit/file"
	"github.com/openbao/openbao/command/server"
	"github.com/openbao/openbao/physical/raft"
	"github.com/openbao/openbao/sdk/v2/physical"
	"github.com/openbao/openbao/sdk/v2/physical/file"
	"github.com/openbao/openbao/sdk/v2/physical/inmem"
	"github.com/openbao/openbao/vault"
	"github.com/openbao/openbao/vault/seal"
)

// newCore assembles a sealed core.
func newCore(o options) (*vault.Core, error) {
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr})
	storage, err := newStorage(o, log)
	if err != nil {
		return nil, fmt.Errorf("opening the storage: %w", err)
	}
	c := &vault.CoreConfig{
		Physical: storage, StorageType: o.storage, Logger: log, RedirectAddr: o.url(),
		BuiltinRegistry: registry{}, CredentialBackends: logins, LogicalBackends: engines,
		AuditBackends: map[string]audit.Factory{"file": auditfile.Factory},
		RawConfig:     newRawConfig(o),
	}
	if ha, ok := storage.(physical.HABackend); ok && o.storage == "raft" {
		c.HAPhysical = ha
		c.ClusterAddr = "https://" + o.cluster
	}
	if o.seal == "static" {
		if c.Seal, err = newStaticSeal(o.sealKey); err != nil {
			return nil, fmt.Errorf("making the static seal: %w", err)
		}
	}
	return vault.NewCore(c)
}

func newStorage(o options, log hclog.Logger) (physical.Backend, error) {
	if o.storage == "inmem" {
		return inmem.NewInmem(nil, log)
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	switch o.storage {
	case "file":
		return file.NewFileBackend(map[string]string{"path": o.dir}, log)
	case "raft":
		return raft.NewRaftBackend(map[string]string{"path": o.dir, "node_id": "n1"}, log)
	}
	return nil, fmt.Errorf("no such storage: %q", o.storage)
}

// newRawConfig declares the audit device: OpenBao takes it only from here.
func newRawConfig(o options) *server.Config {
	c := server.NewConfig()
	if o.audit == "" {
		c.UnsafeAllowAPIAuditCreation = true
		return c
	}
	c.Audits = []*server.AuditDevice{{Type: "file", Path: "file/", Options: map[string]string{"file_path": o.audit}}}
	return c
}

func newStaticSeal(keyFile string) (vault.Seal, error) {
	w := statickms.NewWrapper()
	_, err := w.SetConfig(context.Background(), wrapping.WithConfigMap(map[string]string{
		"current_key": "file://" + keyFile, "current_key_id": "dev-1",
	}))
	if err != nil {
		return nil, err
	}
	return vault.NewAutoSeal(seal.NewAccess(w))
}

func openCluster(core *vault.Core, h http.Handler, o options) error {
	core.SetClusterHandler(h)
	if o.storage != "raft" {
		return nil
	}
	address, err := net.ResolveTCPAddr("tcp", o.cluster)
	if err != nil {
		return err
	}
	core.SetClusterListenerAddrs([]*net.TCPAddr{address})
	return nil
}

// open initialises new storage, unseals, and waits until the core is active.
func open(ctx context.Context, core *vault.Core, o options) error {
	initialised, err := core.Initialized(ctx)
	if err != nil {
		return err
	}
	if !initialised {
		if err := initialise(ctx, core, o); err != nil {
			return fmt.Errorf("initialising: %w", err)
		}
	}
	if err := unseal(ctx, core, o); err != nil {
		return fmt.Errorf("unsealing: %w", err)
	}
	deadline := time.Now().Add(activeLimit)
	for {
		if standby, err := core.Standby(); err == nil && !standby && !core.Sealed() {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("did not become active")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// opened is the file that initialising leaves. Keys are in base64.
type opened struct {
	RootToken string   `json:"root_token"`
	Keys      [][]byte `json:"keys"`
}

func initialise(ctx context.Context, core *vault.Core, o options) error {
	p := &vault.InitParams{BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}}
	if o.seal == "static" {
		p.BarrierConfig.StoredShares = 1
		p.RecoveryConfig = &vault.SealConfig{SecretShares: 1, SecretThreshold: 1}
	}
	r, err := core.Initialize(ctx, p)
	if err != nil {
		return err
	}
	b, err := json.Marshal(opened{RootToken: r.RootToken, Keys: r.SecretShares})
	if err != nil {
		return err
	}
	if o.tokenOut != "" {
		if err := os.WriteFile(o.tokenOut, []byte(r.RootToken), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(o.initOut, b, 0o600)
}

func unseal(ctx context.Context, core *vault.Core, o options) error {
	if o.seal == "static" {
		return core.UnsealWithStoredKeys(ctx)
	}
	b, err := os.ReadFile(o.initOut)
	if err != nil {
		return err
	}
	var file opened
	if err := json.Unmarshal(b, &file); err != nil {
		return err
	}
	if len(file.Keys) == 0 {
		return errors.New("no key in the file")
	}
	_, err = core.Unseal(file.Keys[0])
	return err
}
