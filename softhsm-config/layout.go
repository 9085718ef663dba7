package softhsmconfig

import "path/filepath"

// A Layout names the files of a development directory. All paths are absolute
// where the directory is.
type Layout struct{ Dir string }

// Files and directories.
func (l Layout) at(name ...string) string { return filepath.Join(append([]string{l.Dir}, name...)...) }

// SoftHSMConf is the configuration of SoftHSM.
func (l Layout) SoftHSMConf() string { return l.at("softhsm2.conf") }

// Tokens is where SoftHSM keeps its tokens.
func (l Layout) Tokens() string { return l.at("tokens") }

// Backup is where a copy of the token's own file is.
func (l Layout) Backup() string { return l.at("token-backup") }

func (l Layout) savedToken() string { return filepath.Join(l.Backup(), tokenObject) }

// PIN is the file with the user PIN, mode 0600. With Vault there is none.
func (l Layout) PIN() string { return l.at("pin") }

// Manifest is the key manifest.
func (l Layout) Manifest() string { return l.at("keys.yaml") }

// Assignments is the assignments file.
func (l Layout) Assignments() string { return l.at("assignments.yaml") }

// HSMConfig is the configuration of tapseal-hsm.
func (l Layout) HSMConfig() string { return l.at("hsm.yaml") }

// Run is the directory of the sockets.
func (l Layout) Run() string { return l.at("run") }

// State is the state directory of tapseal-hsm.
func (l Layout) State() string { return l.at("state") }

// VaultFiles is where a Vault that is started for the directory leaves its own
// files, before anything else is there.
func (l Layout) VaultFiles() string { return l.at(vaultFiles) }

const vaultFiles = "vault"

// marker says that the directory is ours and whether it is complete.
func (l Layout) marker() string { return l.at(markerName) }

// made are the names that Prepare makes, in the order in which it removes
// those of an attempt that was cut short.
func (l Layout) made() []string {
	return []string{
		l.HSMConfig(), l.Assignments(), l.Manifest(), l.State(), l.Run(), l.Tokens(), l.SoftHSMConf(), l.PIN(),
	}
}
