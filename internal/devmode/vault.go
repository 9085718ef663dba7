package devmode

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/secrets"
	softhsmconfig "github.com/tapseal/tapseal/softhsm-config"
)

// Vault says where secrets are to be kept instead of in files. The set-up needs
// an administrator's token; nothing that runs afterwards has ever had it.
type Vault struct {
	Address   string `json:"address"`
	CAFile    string `json:"ca_file,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	TokenFile string `json:"token_file"` // of an administrator; read once
	Setup     string `json:"-"`          // the program whose SetupCommand is RunSetup
}

// SetupCommand is the hidden command that is RunSetup.
const SetupCommand = "vault-prepare"

// server is where Vault is. Plain text is refused but to loopback.
func (v *Vault) server() secrets.Server {
	return secrets.Server{
		Address: v.Address, CAFile: v.CAFile, Namespace: v.Namespace,
		AllowPlaintextLoopback: strings.HasPrefix(v.Address, "http://"),
	}
}

// trustDomain is in the URI names of a directory, so that two directories at
// one Vault do not know each other's callers.
func trustDomain(name string) string { return name + ".dev.tapseal.test" }

// vaultNames keep development mode away from what the same Vault holds for
// services in earnest. Engines are shared, everything else is by directory.
func vaultNames(name string) secrets.Names {
	const prefix = "tapseal-dev"
	own := prefix + "-" + name
	return secrets.Names{
		KVMount: prefix, PINPath: name + "/pin", PKIMount: prefix + "-pki",
		HSM: own + "-hsm", Daemon: own + "-daemon", Client: own + "-client",
	}
}

// vaultPeople are the identities that the set-up's PKI roles allow.
func vaultPeople(name string) authz.Development {
	domain := "spiffe://" + trustDomain(name)
	return authz.Development{
		Caller: domain + "/caller/developer", Monitor: domain + "/caller/monitor",
		Operator: domain + "/person/operator", SecurityOfficer: domain + "/person/security-officer",
		KeyManager: domain + "/person/key-manager", Auditor: domain + "/person/auditor",
	}
}

// A setupOrder is what the set-up process reads.
type setupOrder struct {
	Dir       string `json:"dir"`
	HSMBinary string `json:"hsm_binary"`
	Module    string `json:"module,omitempty"`
	Vault     Vault  `json:"vault"`
}

// A setupReply is what it answers. It holds no secret.
type setupReply struct {
	Error string `json:"error,omitempty"`
	Name  string `json:"name"`
	Made  bool   `json:"made"`
}

// maxReplyBytes bounds the answer of the set-up process.
const maxReplyBytes = 64 << 10

// setUp runs the set-up in a process of its own: it has the administrator's
// token and makes the PIN, and the daemon, which is this process, must never
// have had either in its memory.
func setUp(ctx context.Context, o Options) (setupReply, error) {
	order, err := json.Marshal(setupOrder{Dir: o.Dir, HSMBinary: o.HSMBinary, Module: o.Module, Vault: *o.Vault})
	if err != nil {
		return setupReply{}, fmt.Errorf("setting up vault: %w", err)
	}
	var out, diagnostic bytes.Buffer
	cmd := exec.CommandContext(ctx, o.Vault.Setup, SetupCommand)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(order), &out, &diagnostic
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt at the terminal is for us
	ran := cmd.Run()
	var reply setupReply
	if err := json.NewDecoder(io.LimitReader(&out, maxReplyBytes)).Decode(&reply); err != nil {
		return setupReply{}, fmt.Errorf("setting up vault: no answer from the process for it: %w", errors.Join(ran, context.Cause(ctx)))
	}
	if reply.Error != "" {
		return setupReply{}, errors.New(reply.Error)
	}
	return reply, ran
}

// RunSetup is the process that sets up Vault and the directory: an order on in,
// its answer on out.
func RunSetup(ctx context.Context, in io.Reader, out io.Writer) error {
	if err := worker.HardenProcess(); err != nil {
		return err
	}
	var order setupOrder
	decoder := json.NewDecoder(io.LimitReader(in, maxReplyBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&order); err != nil {
		return fmt.Errorf("reading the order: %w", err)
	}
	reply, err := order.run(ctx)
	if err != nil {
		reply.Error = err.Error()
	}
	return json.NewEncoder(out).Encode(reply)
}

func (o *setupOrder) run(ctx context.Context) (setupReply, error) {
	name, err := softhsmconfig.ClaimVault(o.Dir)
	if err != nil {
		return setupReply{}, err
	}
	s, err := newSetup(o, name)
	if err != nil {
		return setupReply{}, fmt.Errorf("setting up vault: %w", err)
	}
	defer s.admin.Close()
	if err := s.vault(ctx); err != nil {
		return setupReply{}, fmt.Errorf("setting up vault at %s: %w", o.Vault.Address, err)
	}
	made, err := s.token(ctx)
	if err != nil {
		return setupReply{}, err
	}
	if err := s.services(ctx); err != nil {
		return setupReply{}, fmt.Errorf("preparing %s: %w", s.layout.Dir, err)
	}
	return setupReply{Name: name, Made: made}, nil
}
