// Package secrets brings secrets into the processes: the HSM's PIN, TLS
// certificates, database credentials, from Vault or OpenBao or, for trials,
// from files. It is the only package that talks to Vault.
//
// The supervisor, which gets the PIN and nothing else:
//
//	v, err := secrets.Open(ctx, config.Vault, secrets.Options{Log: log}) // fails closed
//	defer v.Close()
//	pins, err := secrets.NewPIN(v, config.PIN)
//	defer pins.Close()
//	pin, err := pins.PIN(ctx) // before each login; the kept one while Vault is away
//	defer pin.Wipe()
//
// Without a Vault the same method is on secrets.PINPath("/path/of/the/file")
// and on Files.
//
// The daemon, whose policy cannot read the PIN:
//
//	certificates, err := v.OpenCertificates(ctx, config.PKI, secrets.CertificateOptions{OnChange: closeRevoked})
//	defer certificates.Close() // before v.Close
//	credentials.NewTLS(certificates.ServerTLS("h2"))
//
// where closeRevoked asks certificates.Revoked for the client certificate of
// every connection that is open and ends those that get an error. Without a
// Vault, OpenCertificateFiles gives the same Certificates.
//
// A check of the configuration is Check: it uses nothing up. An operator's
// set-up is NewPlan, Plan.Describe and Plan.Apply, with an Admin.
//
// What happens when Vault does not answer, or says no:
//
//   - At a start there is no service: Open fails with one sentence.
//   - A running service goes on. The PIN that was read last is good for
//     pin_max_age; certificates and leases are good until they end; what is
//     known of revocations is good for CRLMaxAge and as long as the lists say,
//     then clients are refused.
//   - A token that ended needs a new wrapped secret_id from an operator; it is
//     looked for every 15 seconds, and Status says what to do.
//   - A PIN that was deleted in Vault is forgotten here too.
//
// VAULT_* environment variables and proxies are ignored: only the
// configuration says where secrets come from.
package secrets
