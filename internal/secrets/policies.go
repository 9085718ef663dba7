package secrets

import "fmt"

// A Policy is what one identity may do in Vault.
type Policy struct {
	Name string `json:"name"`
	For  string `json:"for"` // who gets it
	HCL  string `json:"hcl"`
}

// ownToken is what every identity needs to keep its token. The roles leave out
// Vault's policy "default", which would add a cubbyhole and more.
//
//nolint:gosec // a policy, not a credential
const ownToken = `# Look at and renew its own token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
`

// Policies are the least that the two services need: the supervisor of the HSM
// workers reads the PIN and nothing else; the daemon has certificates signed
// and gets database credentials, and cannot read the PIN.
func Policies(n Names) []Policy {
	n = n.withDefaults()
	return []Policy{
		{Name: n.HSM, For: "supervisor of tapseal-hsm", HCL: ownToken + fmt.Sprintf(`
# The user PIN of the token: the only secret it can read.
path "%s/data/%s" {
  capabilities = ["read"]
}
`, n.KVMount, n.PINPath)},
		{Name: n.Daemon, For: "tapseald", HCL: ownToken + fmt.Sprintf(`
# Have its own certificate signed; authorities and revocation lists are public.
path "%[1]s/sign/%[2]s" {
  capabilities = ["update"]
}
path "%[1]s/roles/%[2]s" {
  capabilities = ["read"]
}
path "%[1]s/issuers" {
  capabilities = ["list"]
}
path "%[1]s/issuer/+/json" {
  capabilities = ["read"]
}
path "%[1]s/issuer/+/crl" {
  capabilities = ["read"]
}

# Ask what it may do: tapseald check.
path "sys/capabilities-self" {
  capabilities = ["update"]
}

# A database user of its own.
path "%[3]s/creds/%[2]s" {
  capabilities = ["read"]
}
path "sys/leases/renew" {
  capabilities = ["update"]
}
`, n.PKIMount, n.Daemon, n.DatabaseMount)},
	}
}
