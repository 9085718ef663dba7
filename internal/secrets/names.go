package secrets

import "errors"

// Names are the places in Vault that the policies and the set-up speak of.
type Names struct {
	KVMount       string `yaml:"kv_mount,omitempty"`
	PINPath       string `yaml:"pin_path,omitempty"`
	PKIMount      string `yaml:"pki_mount,omitempty"`
	DatabaseMount string `yaml:"database_mount,omitempty"`
	AppRoleMount  string `yaml:"approle_mount,omitempty"`
	HSM           string `yaml:"hsm,omitempty"`    // policy and AppRole of tapseal-hsm's supervisor
	Daemon        string `yaml:"daemon,omitempty"` // policy, AppRole, PKI and database role of tapseald
	Client        string `yaml:"client,omitempty"` // PKI role for callers and persons; neither service may use it
}

// DefaultNames are mounts of our own, so that nothing of anybody else is touched.
func DefaultNames() Names {
	return Names{
		KVMount: "tapseal", PINPath: "hsm/pin", PKIMount: "tapseal-pki", DatabaseMount: "tapseal-database",
		AppRoleMount: "approle", HSM: "tapseal-hsm", Daemon: "tapseal-daemon", Client: "tapseal-client",
	}
}

func (n Names) withDefaults() Names {
	d := DefaultNames()
	for _, p := range []struct {
		field *string
		value string
	}{
		{&n.KVMount, d.KVMount},
		{&n.PINPath, d.PINPath},
		{&n.PKIMount, d.PKIMount},
		{&n.DatabaseMount, d.DatabaseMount},
		{&n.AppRoleMount, d.AppRoleMount},
		{&n.HSM, d.HSM},
		{&n.Daemon, d.Daemon},
		{&n.Client, d.Client},
	} {
		if *p.field == "" {
			*p.field = p.value
		}
	}
	return n
}

// Validate says what is wrong, by key. Names go into policies: one with a
// wildcard in it would open more than it says.
func (n Names) Validate() error {
	n = n.withDefaults()
	return errors.Join(
		checkPart("kv_mount", n.KVMount), checkPart("pin_path", n.PINPath), checkPart("pki_mount", n.PKIMount),
		checkPart("database_mount", n.DatabaseMount), checkPart("approle_mount", n.AppRoleMount),
		checkPart("hsm", n.HSM), checkPart("daemon", n.Daemon), checkPart("client", n.Client),
		n.checkApart(),
	)
}

// checkApart refuses one policy for two identities.
func (n Names) checkApart() error {
	if n.HSM == n.Daemon || n.HSM == n.Client || n.Daemon == n.Client {
		return errors.New("hsm, daemon, client: must be different names")
	}
	return nil
}
