package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/strictyaml"
)

// maxOperatorTokenBytes bounds an operator's token.
const maxOperatorTokenBytes = 4096

// VaultSetupCmd shows or writes what tapseal needs in Vault or OpenBao.
type VaultSetupCmd struct {
	Config string `help:"YAML file with any of the settings below, the names of mounts and roles, and the database; a flag wins." type:"path" placeholder:"FILE"`

	Address                string   `help:"Where Vault is." placeholder:"URL"`
	CAFile                 string   `help:"Authorities of its certificate, PEM. Default: the system's." type:"path" placeholder:"FILE"`
	AllowPlaintextLoopback bool     `help:"Allow http://127.0.0.1:port. For trials."`
	TrustDomain            string   `help:"Name in the URIs of certificates: spiffe://NAME/..." placeholder:"NAME"`
	ServerName             []string `help:"DNS name that the daemon's certificate may have. Repeatable." placeholder:"NAME"`

	TokenFile string `help:"File with an administrator's token, mode 0600; - reads or asks for it on standard input. Without it nothing is asked of Vault." placeholder:"FILE"`
	Apply     bool   `help:"Write it. Needs --token-file. Without this, nothing is changed."`

	IssueSecretIDs string        `name:"issue-secret-ids" help:"With --apply: put a wrapped secret_id for each of the two services into this directory, mode 0600." type:"path" placeholder:"DIR"`
	WrapTTL        time.Duration `name:"wrap-ttl" help:"How long a wrapped secret_id can be picked up." default:"10m"`
	JSON           bool          `help:"Print one JSON object."`
}

// Help says what happens without --apply.
func (*VaultSetupCmd) Help() string {
	return "Prints the engines, policies and roles that it would write, and writes nothing. With --token-file it compares them with " +
		"what is there. With --apply it writes what differs; doing it again changes nothing. The token is never taken from a flag or " +
		"from the environment, and VAULT_ADDR and the like are ignored."
}

// vaultSetupFile is the configuration file.
type vaultSetupFile struct {
	secrets.Server       `yaml:",inline"`
	secrets.SetupConfig  `yaml:",inline"`
	DatabasePasswordFile string `yaml:"database_password_file,omitempty"` // mode 0600; relative to the file
}

// vaultSetupResult is the JSON form. It holds no secret.
type vaultSetupResult struct {
	Applied  bool              `json:"applied"`           // false: nothing was written
	Writes   []secrets.Write   `json:"writes"`            // everything that belongs there
	Changes  []secrets.Applied `json:"changes,omitempty"` // what differed, if Vault was asked
	Services []vaultService    `json:"services"`
	Error    string            `json:"error,omitempty"`
}

// A vaultService is one of the two identities.
type vaultService struct {
	Service     string `json:"service"`
	Role        string `json:"role"`
	RoleID      string `json:"role_id,omitempty"`           // for its configuration, once it exists
	IssueWith   string `json:"issue_with"`                  // command that prints a wrapping token
	WrappedFile string `json:"wrapped_secret_id,omitempty"` // written by --issue-secret-ids
}

// Run prints or writes the set-up.
func (c *VaultSetupCmd) Run(std streams) error {
	if err := c.checkFlags(); err != nil {
		return err
	}
	file, err := c.load()
	if err != nil {
		return err
	}
	plan, err := secrets.NewPlan(file.SetupConfig)
	if err != nil {
		return err
	}
	s := &vaultSetup{cmd: c, std: std, names: effectiveNames(file.Names), plan: plan}
	s.result = vaultSetupResult{Writes: plan.Writes, Services: s.services()}
	if err := s.run(file.Server); err != nil {
		if !c.JSON {
			return err
		}
		s.result.Error = err.Error()
		return errors.Join(s.print(), statusError(statusOther))
	}
	return s.print()
}

func (c *VaultSetupCmd) checkFlags() error {
	switch {
	case c.Apply && c.TokenFile == "":
		return errors.New("--apply needs --token-file (hint: --token-file - asks for the token)")
	case c.IssueSecretIDs != "" && !c.Apply:
		return errors.New("--issue-secret-ids needs --apply")
	case c.WrapTTL < time.Second || c.WrapTTL > 24*time.Hour:
		return errors.New("--wrap-ttl must be 1s to 24h")
	}
	return nil
}

// load reads the file and lets flags win.
func (c *VaultSetupCmd) load() (*vaultSetupFile, error) {
	f := &vaultSetupFile{}
	if c.Config != "" {
		data, err := os.ReadFile(c.Config)
		if err != nil {
			return nil, fmt.Errorf("reading configuration: %w", err)
		}
		if err := strictyaml.Unmarshal(data, f); err != nil {
			return nil, fmt.Errorf("configuration %s: %w", c.Config, err)
		}
		for _, p := range []*string{&f.CAFile, &f.DatabasePasswordFile} {
			if *p != "" && !filepath.IsAbs(*p) {
				*p = filepath.Join(filepath.Dir(c.Config), *p)
			}
		}
	}
	for _, o := range []struct {
		field *string
		flag  string
	}{{&f.Address, c.Address}, {&f.CAFile, c.CAFile}, {&f.TrustDomain, c.TrustDomain}} {
		if o.flag != "" {
			*o.field = o.flag
		}
	}
	f.AllowPlaintextLoopback = f.AllowPlaintextLoopback || c.AllowPlaintextLoopback
	if len(c.ServerName) > 0 {
		f.ServerNames = c.ServerName
	}
	return f, f.readPassword()
}

func (f *vaultSetupFile) readPassword() (err error) {
	if f.DatabasePasswordFile == "" {
		return nil
	}
	if f.Database == nil {
		return errors.New("database_password_file: there is no database")
	}
	if f.Database.Password, err = secret.ReadFile(f.DatabasePasswordFile, maxOperatorTokenBytes); err != nil {
		return fmt.Errorf("database_password_file: %w", err)
	}
	return nil
}

// effectiveNames fills in the defaults as the plan does.
func effectiveNames(n secrets.Names) secrets.Names {
	d := secrets.DefaultNames()
	for _, p := range []struct{ have, otherwise *string }{
		{&n.AppRoleMount, &d.AppRoleMount},
		{&n.HSM, &d.HSM},
		{&n.Daemon, &d.Daemon},
		{&n.KVMount, &d.KVMount},
		{&n.PINPath, &d.PINPath},
	} {
		if *p.have == "" {
			*p.have = *p.otherwise
		}
	}
	return n
}

// vaultSetup is one run of the command.
type vaultSetup struct {
	cmd    *VaultSetupCmd
	std    streams
	names  secrets.Names
	plan   secrets.Plan
	result vaultSetupResult
}

func (s *vaultSetup) services() []vaultService {
	var all []vaultService
	for _, v := range []vaultService{{Service: "tapseal-hsm", Role: s.names.HSM}, {Service: "tapseald", Role: s.names.Daemon}} {
		v.IssueWith = fmt.Sprintf("vault write -wrap-ttl=%ds -field=wrapping_token -f auth/%s/role/%s/secret-id",
			int(s.cmd.WrapTTL.Seconds()), s.names.AppRoleMount, v.Role)
		all = append(all, v)
	}
	return all
}

func (s *vaultSetup) run(server secrets.Server) error {
	if s.cmd.TokenFile == "" {
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := s.checkOutput(); err != nil { // before anything is written
		return err
	}
	token, err := s.token()
	if err != nil {
		return err
	}
	defer token.Wipe()
	admin, err := secrets.NewAdmin(server, token)
	if err != nil {
		return err
	}
	defer admin.Close()
	if err := s.compareOrWrite(ctx, admin); err != nil {
		return err
	}
	if !s.cmd.Apply {
		return nil
	}
	s.result.Applied = true
	return s.identities(ctx, admin)
}

// compareOrWrite goes one by one, so that the operator sees where it is.
func (s *vaultSetup) compareOrWrite(ctx context.Context, admin *secrets.Admin) error {
	for _, w := range s.plan.Writes {
		done, err := secrets.Plan{Writes: []secrets.Write{w}}.Apply(ctx, admin, !s.cmd.Apply)
		if err != nil {
			return err
		}
		for _, d := range done {
			s.result.Changes = append(s.result.Changes, d)
			if !s.cmd.JSON {
				_, _ = fmt.Fprintf(s.std.err, "%-9s %s %s\n", d.Change, d.Kind, d.Path)
			}
		}
	}
	return nil
}

func (s *vaultSetup) identities(ctx context.Context, admin *secrets.Admin) error {
	for i := range s.result.Services {
		v := &s.result.Services[i]
		id, err := admin.RoleID(ctx, s.names.AppRoleMount, v.Role)
		if err != nil {
			return err
		}
		v.RoleID = id
		if s.cmd.IssueSecretIDs == "" {
			continue
		}
		wrapped, err := admin.WrapSecretID(ctx, s.names.AppRoleMount, v.Role, s.cmd.WrapTTL)
		if err != nil {
			return err
		}
		path := s.wrappedFile(v)
		err = secret.WriteFile(path, wrapped)
		wrapped.Wipe()
		if err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		v.WrappedFile = path
	}
	return nil
}

func (s *vaultSetup) wrappedFile(v *vaultService) string {
	return filepath.Join(s.cmd.IssueSecretIDs, v.Service+".wrapped-secret-id")
}

// checkOutput refuses to replace a secret_id that nobody has picked up yet.
func (s *vaultSetup) checkOutput() error {
	if s.cmd.IssueSecretIDs == "" {
		return nil
	}
	if err := secret.CheckDirectory(s.cmd.IssueSecretIDs); err != nil {
		return fmt.Errorf("--issue-secret-ids: %w", err)
	}
	for i := range s.result.Services {
		path := s.wrappedFile(&s.result.Services[i])
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("--issue-secret-ids: %s exists (hint: remove it if its secret_id is not wanted any more)", path)
		}
	}
	return nil
}

// token reads the administrator's token; at a terminal it does not appear.
func (s *vaultSetup) token() (secret.Secret, error) {
	if s.cmd.TokenFile != "-" {
		token, err := secret.ReadFile(s.cmd.TokenFile, maxOperatorTokenBytes)
		if err != nil {
			return secret.Secret{}, fmt.Errorf("--token-file: %w", err)
		}
		return token, nil
	}
	quiet, err := hideTyping(s.std.in)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("asking for the token: %w", err)
	}
	if quiet != nil {
		defer quiet()
		_, _ = fmt.Fprint(s.std.err, "Administrator's token of Vault: ")
		defer func() { _, _ = fmt.Fprintln(s.std.err) }()
	}
	return readToken(s.std.in)
}

func readToken(r io.Reader) (secret.Secret, error) {
	lines := bufio.NewScanner(r)
	buf := make([]byte, maxOperatorTokenBytes)
	defer clear(buf)
	lines.Buffer(buf, maxOperatorTokenBytes)
	if !lines.Scan() || len(lines.Bytes()) == 0 {
		return secret.Secret{}, errors.New("there is no token on standard input")
	}
	return secret.New(append([]byte(nil), lines.Bytes()...)), nil
}

func (s *vaultSetup) print() error {
	if s.cmd.JSON {
		enc := json.NewEncoder(s.std.out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(s.result); err != nil {
			return fmt.Errorf("printing the result: %w", err)
		}
		return nil
	}
	out := bufio.NewWriter(s.std.out)
	if !s.result.Applied {
		if err := s.plan.Describe(out); err != nil {
			return fmt.Errorf("printing the plan: %w", err)
		}
		fmt.Fprintln(out, "\nnothing was written (hint: --apply --token-file FILE writes it)")
	}
	s.printNext(out)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}

// printNext says what the operator does after the set-up.
func (s *vaultSetup) printNext(out io.Writer) {
	fmt.Fprintf(out, "\nThen put the PIN in, from a file that only you can read and that has no line end:\n  vault kv put -mount=%s %s pin=@FILE\n", s.names.KVMount, s.names.PINPath)
	for _, v := range s.result.Services {
		fmt.Fprintf(out, "\n%s\n  role: %s\n", v.Service, v.Role)
		if v.RoleID != "" {
			fmt.Fprintf(out, "  role_id: %s\n", v.RoleID)
		}
		if v.WrappedFile != "" {
			fmt.Fprintf(out, "  wrapped_secret_id: %s (good for %s, once)\n", v.WrappedFile, s.cmd.WrapTTL)
			continue
		}
		fmt.Fprintf(out, "  issue a secret_id into the file that wrapped_secret_id names, mode 0600:\n    %s\n", v.IssueWith)
	}
}
