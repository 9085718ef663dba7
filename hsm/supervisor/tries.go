package supervisor

import (
	"path/filepath"
	"time"
)

// maxUnknownLogins is how many logins may end without a known result before
// one succeeds, over all processes and restarts. HSMs lock after 3 to 10 wrong
// PINs. See docs/decisions/0013-logins-across-restarts.md.
const maxUnknownLogins = 2

// tries is what is known about logins after every process was killed. Who
// changes it holds the login lock.
type tries struct {
	dir   string
	token tokenName
}

// A tokenName is the token as the configuration names it. Another one's PIN
// proves nothing.
type tokenName struct {
	Module     string `json:"module"`
	ModuleArgs string `json:"module_args,omitempty"`
	Label      string `json:"token_label,omitempty"`
	Serial     string `json:"token_serial,omitempty"`
}

// inProgress is written before the PIN leaves this process and removed when
// the result is known: what a killed process leaves is a login that the token
// may have counted.
type inProgress struct {
	Time    time.Time `json:"time"`
	Unknown int       `json:"unknown"` // logins without a known result since the last success, this one included
}

// lastOK names the PIN that the token has taken last. It has nothing that was
// made from the PIN: a short PIN could be found by trying.
type lastOK struct {
	Time  time.Time `json:"time"`
	Token tokenName `json:"token"`
	PIN   string    `json:"pin"` // userPIN.version
}

func newTries(c *Config) tries {
	return tries{c.StateDir, tokenName{c.Module, c.ModuleArgs, c.TokenLabel, c.TokenSerial}}
}

func (t tries) path(name string) string { return filepath.Join(t.dir, name) }

// proven reports whether the last login that succeeded was with this PIN.
func (t tries) proven(version string) bool {
	r, there, err := readRecord[lastOK](t.path(lastOKName))
	return there && err == nil && version != "" && r.PIN == version && r.Token == t.token
}

// prove remembers that the token has taken the PIN.
func (t tries) prove(version string) error {
	if version == "" || t.proven(version) {
		return nil
	}
	return writeRecord(t.path(lastOKName), lastOK{time.Now().UTC().Truncate(time.Second), t.token, version})
}

// unknown is how many logins have no known result. A file that cannot be read
// may stand for any number.
func (t tries) unknown() int {
	r, there, err := readRecord[inProgress](t.path(inProgressName))
	switch {
	case !there:
		return 0
	case err != nil || r.Unknown < 1:
		return maxUnknownLogins
	}
	return r.Unknown
}

// setUnknown remembers n logins without a known result.
func (t tries) setUnknown(n int) error {
	if n == 0 {
		return removeFile(t.path(inProgressName))
	}
	return writeRecord(t.path(inProgressName), inProgress{time.Now().UTC().Truncate(time.Second), n})
}

// disprove forgets the PIN that was right: the token refused it.
func (t tries) disprove() error { return removeFile(t.path(lastOKName)) }

// forget is for when a latch, or an operator, stands for what is forgotten.
func (t tries) forget() error {
	if err := t.disprove(); err != nil {
		return err
	}
	if err := t.setUnknown(0); err != nil {
		return err
	}
	return syncDir(t.dir)
}
