package secrets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A PKIFinding is what CheckPKI does not like.
type PKIFinding struct {
	Key     string // of PKIConfig or Config
	Problem string
	Unknown bool // it could not be asked: a start may succeed all the same
}

// CheckPKI says whether Vault would sign our certificate, and changes nothing:
// no certificate is issued, no secret_id used up, no token renewed. The mount
// and its authority are asked without a token. With one from an earlier login
// the rights to the role are asked, and the role is read, as the shipped policy
// allows; with another policy a request that cannot be signed tells as much.
func CheckPKI(ctx context.Context, c Config, p PKIConfig, o Options) []PKIFinding {
	if err := p.Validate(); err != nil {
		return []PKIFinding{{Key: "pki_mount", Problem: err.Error()}}
	}
	v, err := newVault(c, o)
	if err != nil {
		return []PKIFinding{{Key: "address", Problem: err.Error()}}
	}
	defer v.closeConnections()
	k := &pkiCheck{vault: v, config: p.withDefaults()}
	if !k.authority(ctx) {
		return k.found
	}
	k.role(ctx)
	return k.found
}

type pkiCheck struct {
	vault  *Vault
	config PKIConfig
	found  []PKIFinding
}

func (k *pkiCheck) add(key, format string, args ...any) {
	k.found = append(k.found, PKIFinding{Key: key, Problem: fmt.Sprintf(format, args...)})
}

func (k *pkiCheck) unknown(key, format string, args ...any) {
	k.found = append(k.found, PKIFinding{Key: key, Problem: fmt.Sprintf(format, args...), Unknown: true})
}

// authority reads the certificate that would sign ours, which a PKI engine
// shows to anybody. It reports whether there is more to ask.
func (k *pkiCheck) authority(ctx context.Context) bool {
	path := k.config.Mount + "/cert/ca"
	answer, err := k.vault.door.read(ctx, path)
	switch {
	case errors.Is(err, ErrAway):
		k.add("address", "asking for the authority at %s: %v", path, err)
		return false
	case errors.Is(err, ErrUntrusted):
		k.add("ca_file", "asking for the authority at %s: %v", path, err)
		return false
	case errors.Is(err, ErrDenied), errors.Is(err, ErrNotFound):
		k.add("pki_mount", "there is no PKI engine at %q, or none with an authority: it would show %s to anybody (%v)", k.config.Mount, path, err)
		return false
	case err != nil:
		k.add("pki_mount", "reading the authority at %s: %v", path, err)
		return false
	}
	text, _ := answer.Data["certificate"].(string)
	certificates, err := parseCertificates([]byte(text))
	if err != nil {
		k.add("pki_mount", "the authority at %s %v", path, err)
		return false
	}
	now := k.vault.clock.Now()
	switch c := certificates[0]; {
	case now.After(c.NotAfter):
		k.add("pki_mount", "the authority at %s expired at %s", path, c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		k.add("pki_mount", "the authority at %s is not valid before %s", path, c.NotBefore.UTC().Format(time.RFC3339))
	}
	return true
}

// role asks what the kept token may do, and whether there is the role.
func (k *pkiCheck) role(ctx context.Context) {
	err := k.vault.takeUpToken(ctx)
	if missing(err) || errors.Is(err, errTokenEnded) {
		k.unknown("pki_role", "the role %q and the right to use it can be asked only after the first login", k.config.Role)
		return
	}
	if err != nil {
		k.unknown("pki_role", "asking for the role %q: %v", k.config.Role, err)
		return
	}
	sign, role := k.config.Mount+"/sign/"+k.config.Role, k.config.Mount+"/roles/"+k.config.Role
	may, err := k.vault.capabilities(ctx, sign, role)
	switch {
	case errors.Is(err, ErrDenied): // a policy of an earlier version, or of somebody else
		k.tryEmpty(ctx, sign)
	case err != nil:
		k.unknown("pki_role", "asking for the rights at %s: %v", sign, err)
	case !slices.Contains(may[sign], "update"):
		k.mayNotSign(sign)
	case !slices.Contains(may[role], "read"):
		k.tryEmpty(ctx, sign)
	default:
		_, err := k.vault.conn.read(ctx, role)
		k.roleAnswer(role, err)
	}
}

func (k *pkiCheck) mayNotSign(path string) {
	k.add("pki_role", "the policy of %q does not allow update at %s: no certificate would be signed", k.vault.config.Role, path)
}

func (k *pkiCheck) roleAnswer(path string, err error) {
	switch {
	case errors.Is(err, ErrNotFound):
		k.add("pki_role", "there is no role %q at %s", k.config.Role, k.config.Mount)
	case err != nil:
		k.unknown("pki_role", "asking at %s: %v", path, err)
	}
}

// tryEmpty sends a request to sign nothing, which Vault refuses in any case: for
// the policy, for the role, or for what is missing. Then the first two are good.
func (k *pkiCheck) tryEmpty(ctx context.Context, sign string) {
	_, err := k.vault.conn.write(ctx, sign, map[string]any{"csr": ""})
	switch {
	case errors.Is(err, ErrDenied):
		k.mayNotSign(sign)
	case errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "unknown role"):
		k.roleAnswer(sign, ErrNotFound)
	case errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "csr"):
	case err == nil:
		k.unknown("pki_role", "%s took a request without content", sign)
	default:
		k.roleAnswer(sign, err)
	}
}

// capabilities asks what the token may do at paths.
func (v *Vault) capabilities(ctx context.Context, paths ...string) (map[string][]string, error) {
	answer, err := v.conn.write(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
	if err == nil && answer == nil {
		err = fmt.Errorf("%w: no rights in the answer", ErrRefused)
	}
	if err != nil {
		return nil, err
	}
	may := make(map[string][]string, len(paths))
	for _, path := range paths {
		list, _ := answer.Data[path].([]any)
		for _, one := range list {
			if name, ok := one.(string); ok {
				may[path] = append(may[path], name)
			}
		}
	}
	return may, nil
}
