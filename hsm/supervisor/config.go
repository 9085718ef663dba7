// Package supervisor starts, feeds, watches, recycles and replaces the worker
// processes. It holds the PIN and the sockets, and never loads the PKCS#11
// module: whatever a vendor library does happens to a process that can be
// killed.
package supervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/internal/strictyaml"
)

// Defaults of the configuration.
const (
	// DefaultRecycleAfter bounds a worker on SoftHSM, which leaks about 750
	// bytes a verification, to about 150 MB.
	DefaultRecycleAfter = 200_000
	// DefaultStuckAfter is a thousand times what a crossing into a local
	// token takes and well below the 2 s in which service must be back.
	DefaultStuckAfter = time.Second
)

// Config is the configuration file of tapseal-hsm. Relative paths are
// relative to the file.
type Config struct {
	Module       string            `yaml:"module"`                   // PKCS#11 module, path of a shared object
	ModuleArgs   string            `yaml:"module_args,omitempty"`    // initialisation string, for NSS softokn
	TokenLabel   string            `yaml:"token_label,omitempty"`    // label of the token; label or serial is required
	TokenSerial  string            `yaml:"token_serial,omitempty"`   // serial number of the token
	Environment  map[string]string `yaml:"environment,omitempty"`    // the whole environment of the workers; no LD_*, GODEBUG, GOTRACEBACK
	ModuleSHA256 string            `yaml:"module_sha256"`            // hash of the module's file, hexadecimal; another file is refused
	PINFile      string            `yaml:"pin_file,omitempty"`       // user PIN; mode 0600 or less, own file. This or vault is required
	Vault        *Vault            `yaml:"vault,omitempty"`          // where the user PIN is instead
	Manifest     string            `yaml:"manifest"`                 // key manifest
	SocketDir    string            `yaml:"socket_dir"`               // directory of worker-<n>.sock and supervisor.sock, mode 0700 or 0750
	StateDir     string            `yaml:"state_dir"`                // where the login latch lives, mode 0700; must survive restarts
	ResidentKeys bool              `yaml:"resident_keys,omitempty"`  // derive from session copies of the keys; see docs/decisions/0010-resident-keys.md
	Workers      int               `yaml:"workers,omitempty"`        // number of worker processes, 0 is one for each core
	RecycleAfter uint64            `yaml:"recycle_after,omitempty"`  // verifications after which a worker is replaced, 0 is 200000
	StuckAfterMS uint32            `yaml:"stuck_after_ms,omitempty"` // a worker that long in one call into the module is killed, 0 is 1000
	DaemonUID    *uint32           `yaml:"daemon_uid,omitempty"`     // user id of tapseald, default own user id
	GuessLimit   GuessLimit        `yaml:"guess_limit,omitempty"`    // mismatches for one key and subject
	Metrics      string            `yaml:"metrics_listen,omitempty"` // host:port for Prometheus over HTTPS, default none
	MetricsTLS   MetricsTLS        `yaml:"metrics_tls,omitempty"`    // required with metrics_listen
	MetricsAllow []string          `yaml:"metrics_allow,omitempty"`  // URI names of the client certificates that may ask; required with metrics_listen
}

// GuessLimit bounds wrong cryptograms of one caller for one key and one PAN in
// each worker; those of all callers together, 16 times as many.
type GuessLimit struct {
	Mismatches    uint32 `yaml:"mismatches,omitempty"`     // 0 is 65536
	WindowSeconds uint32 `yaml:"window_seconds,omitempty"` // 0 is 3600
}

// LoadConfig reads a configuration file, makes its paths absolute and fills in
// the defaults. It does not look at what the paths name: see Validate.
func LoadConfig(path string) (*Config, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	var c Config
	if err := strictyaml.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	paths := []*string{&c.Module, &c.PINFile, &c.Manifest, &c.SocketDir, &c.StateDir}
	if c.Vault != nil {
		paths = append(paths, &c.Vault.CAFile, &c.Vault.WrappedSecretID, &c.Vault.TokenFile)
	}
	paths = append(paths, c.MetricsTLS.paths()...)
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	c.fillDefaults()
	return &c, nil
}

// Marshal is the YAML form of the configuration.
func (c *Config) Marshal() ([]byte, error) {
	data, err := yaml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding configuration: %w", err)
	}
	return data, nil
}

func (c *Config) fillDefaults() {
	if c.Workers == 0 {
		c.Workers = runtime.NumCPU()
	}
	if c.RecycleAfter == 0 {
		c.RecycleAfter = DefaultRecycleAfter
	}
	if c.StuckAfterMS == 0 {
		c.StuckAfterMS = uint32(DefaultStuckAfter / time.Millisecond)
	}
	if c.DaemonUID == nil {
		uid := uint32(os.Getuid())
		c.DaemonUID = &uid
	}
	if c.GuessLimit.Mismatches == 0 {
		c.GuessLimit.Mismatches = worker.DefaultGuessMismatches
	}
	if c.GuessLimit.WindowSeconds == 0 {
		c.GuessLimit.WindowSeconds = uint32(worker.DefaultGuessWindow / time.Second)
	}
}

// stuckAfter is StuckAfterMS as a duration.
func (c *Config) stuckAfter() time.Duration { return time.Duration(c.StuckAfterMS) * time.Millisecond }
