package supervisor

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/protectedfile"
	"github.com/tapseal/tapseal/internal/secret"
	"github.com/tapseal/tapseal/keys"
)

// Bounds of the configuration.
const (
	maxWorkers         = 256
	maxSocketPathBytes = 107 // sockaddr_un.sun_path less the closing zero
)

// A Problem is one thing that is wrong with the configuration or what it names.
type Problem struct {
	Key     string `json:"key"`     // configuration key
	Problem string `json:"problem"` // no secrets
}

// Error makes a Problem an error.
func (p Problem) Error() string { return p.Key + ": " + p.Problem }

var environmentName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate checks the configuration and the files it names, without changing
// anything and without asking the token. All problems are found at once.
func (c *Config) Validate() []Problem {
	var found []Problem
	add := func(key string, err error) {
		if err != nil {
			found = append(found, Problem{Key: key, Problem: err.Error()})
		}
	}
	found = append(found, c.checkModule()...)
	if c.TokenLabel == "" && c.TokenSerial == "" {
		add("token_label", fmt.Errorf("token_label or token_serial is required"))
	}
	for name := range c.Environment {
		add("environment", checkEnvironmentName(name))
	}
	found = append(found, c.checkPINSource()...)
	_, err := c.readManifest()
	add("manifest", err)
	add("socket_dir", checkDir(c.SocketDir, 0o027))
	add("socket_dir", c.checkSocketPaths())
	add("state_dir", checkDir(c.StateDir, 0o022))
	found = append(found, c.checkMetrics()...)
	return append(found, c.validateNumbers()...)
}

func (c *Config) validateNumbers() []Problem {
	var found []Problem
	if c.Workers < 1 || c.Workers > maxWorkers {
		found = append(found, Problem{"workers", fmt.Sprintf("must be 1 to %d, or 0 for one for each core", maxWorkers)})
	}
	if least := 2 * worker.BeatInterval; c.stuckAfter() < least {
		found = append(found, Problem{"stuck_after_ms", fmt.Sprintf("must be at least %d", least/time.Millisecond)})
	}
	return found
}

// checkEnvironmentName refuses, beside what is no name, the variables that make
// the dynamic loader or Go's runtime run or show something else in a worker:
// the module is pinned by its hash, and what is loaded before it is not.
func checkEnvironmentName(name string) error {
	switch {
	case !environmentName.MatchString(name):
		return fmt.Errorf("%q is no name of an environment variable", name)
	case strings.HasPrefix(name, "LD_"), name == "GODEBUG", name == "GOTRACEBACK":
		return fmt.Errorf("%s is refused: it changes what the dynamic loader or the Go runtime does in a worker", name)
	}
	return nil
}

// checkModule asks what each worker asks again before it loads the module.
func (c *Config) checkModule() []Problem {
	if c.Module == "" {
		return []Problem{{"module", "is required"}}
	}
	got, err := worker.HashModule(c.Module)
	if err != nil {
		return []Problem{{"module", withoutPath(err).Error()}}
	}
	toPin := fmt.Sprintf("to pin the file that is there now, after you made sure that it is the right one: module_sha256: %s", got)
	if c.ModuleSHA256 == "" {
		return []Problem{{"module_sha256", "is required; " + toPin}}
	}
	want, err := worker.ParseModuleHash(c.ModuleSHA256)
	if err != nil {
		return []Problem{{"module_sha256", err.Error() + "; " + toPin}}
	}
	if got != want {
		return []Problem{{"module_sha256", "the module is another file; " + toPin}}
	}
	return nil
}

// checkPINSource looks at files only; Check asks Vault.
func (c *Config) checkPINSource() []Problem {
	switch {
	case c.PINFile == "" && c.Vault == nil:
		return []Problem{{"pin_file", "pin_file or vault is required"}}
	case c.PINFile != "" && c.Vault != nil:
		return []Problem{{"pin_file", "pin_file and vault exclude each other"}}
	case c.Vault != nil:
		return c.Vault.validate()
	}
	pin, err := secret.ReadPIN(c.PINFile)
	pin.Wipe()
	if err != nil {
		return []Problem{{"pin_file", err.Error()}}
	}
	return nil
}

// maxManifestBytes bounds what is read of a manifest.
const maxManifestBytes = 64 << 20

// readManifest reads the manifest and gives its YAML for the workers.
func (c *Config) readManifest() ([]byte, error) {
	if c.Manifest == "" {
		return nil, fmt.Errorf("is required")
	}
	data, open, err := protectedfile.Read(c.Manifest, maxManifestBytes)
	switch {
	case err != nil:
		return nil, withoutPath(err)
	case open != nil: // whoever writes the manifest decides what a key may serve
		return nil, open
	case len(data) > maxManifestBytes:
		return nil, fmt.Errorf("is longer than %d bytes", maxManifestBytes)
	}
	m, err := keys.ParseManifest(data)
	if err != nil {
		return nil, err
	}
	for i := range m.Sets {
		for _, v := range m.Sets[i].Versions {
			if v.State == keys.Active {
				return data, nil
			}
		}
	}
	return nil, fmt.Errorf("has no active key: there is nothing to serve")
}

// checkDir accepts a directory that is not there yet; supervise makes it.
func checkDir(path string, forbidden fs.FileMode) error {
	if path == "" {
		return fmt.Errorf("is required")
	}
	info, err := os.Stat(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return withoutPath(err)
	}
	if !info.IsDir() {
		return fmt.Errorf("is not a directory")
	}
	if err := checkOwner(info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return fmt.Errorf("mode is %04o, it must not have any of %04o", mode, forbidden)
	}
	return nil
}

func checkOwner(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("owner cannot be determined")
	}
	own := uint32(os.Geteuid()) //nolint:gosec // a user id is never negative
	if st.Uid == own {
		return nil
	}
	return fmt.Errorf("belongs to user id %d, must belong to %d", st.Uid, own)
}

func (c *Config) checkSocketPaths() error {
	if longest := c.workerSocket(max(0, c.Workers-1)) + ".new"; len(longest) > maxSocketPathBytes {
		return fmt.Errorf("path is too long for a socket: %d bytes of at most %d", len(longest), maxSocketPathBytes)
	}
	return nil
}

// workerSocket is the path of the socket of one slot.
func (c *Config) workerSocket(n int) string {
	return filepath.Join(c.SocketDir, "worker-"+strconv.Itoa(n)+".sock")
}

// withoutPath leaves only the cause of a file error: the key names the file.
func withoutPath(err error) error {
	if pe, ok := err.(*fs.PathError); ok { //nolint:errorlint // only the outermost has the path
		return pe.Err
	}
	return err
}
