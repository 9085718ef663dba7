// Package config reads the configuration of the daemon: one strict YAML file,
// in which every fault is reported by the key that has it.
package config

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tapseal/tapseal/internal/secrets"
	"github.com/tapseal/tapseal/internal/strictyaml"
)

// Defaults of what a file may leave out, each with its reason.
const (
	DefaultTimeoutMS      = 250     // the latest answer a terminal can still use
	DefaultDrainMS        = 10_000  // twice the longest that an orchestrator's load balancer needs to notice
	DefaultMessageBytes   = 1 << 20 // 256 taps of 1 KiB of field 55, and the rest of them
	DefaultConnections    = 256     // callers are platforms, not terminals
	DefaultStreams        = 256     // unary calls and streams at one time on one connection
	DefaultTapsPerStream  = 1024    // hides 50 ms at 20,000 a second
	DefaultTapsInFlight   = 8192    // about 8 MB of requests
	DefaultRefreshSec     = 30      // how long a revoked certificate may go on
	DefaultIdleSec        = 900     // a connection nobody uses holds a place; opening one again costs a handshake
	DefaultGCPercent      = 100     // the Go runtime's own
	DefaultStateCacheMiB  = 8       // keeps the daemon below 80 MB; the kernel caches the rest of the files
	DefaultMemoryLimitMiB = 64      // the collector works harder near it, so that the process stays below 80 MB
)

// Bounds of what a file may say.
const (
	MaxTimeoutMS      = 10_000
	maxDrainMS        = 600_000
	minMessageBytes   = 16 << 10
	maxMessageBytes   = 16 << 20
	maxConnections    = 65_536
	maxStreams        = 65_536
	maxTapsPerStream  = 65_536
	maxTapsInFlight   = 1 << 20
	minMemoryLimitMiB = 32
	maxMemoryLimitMiB = 1 << 20
	minGCPercent      = 10
	maxRefreshSec     = 3600
	maxGCPercent      = 1000
	maxStateCacheMiB  = 1 << 16
)

// sample is the annotated configuration file.
//
//go:embed tapseald.yaml
var sample string

// SampleDaemon is a complete configuration of the daemon with a comment on
// every key.
func SampleDaemon() string { return sample }

// Daemon is the configuration of tapseald. Paths are relative to the file that
// LoadDaemon reads and absolute afterwards.
type Daemon struct {
	Listen           string   `yaml:"listen"` // host:port of the gRPC listener
	TLS              TLS      `yaml:"tls"`
	Policy           string   `yaml:"policy"`            // path of the policy: who may do what
	Admin            Listener `yaml:"admin,omitempty"`   // administration, gRPC
	Metrics          Listener `yaml:"metrics,omitempty"` // Prometheus metrics, HTTPS
	Assignments      string   `yaml:"assignments"`       // path of the assignments file
	HSM              HSM      `yaml:"hsm"`
	Journal          Journal  `yaml:"journal"`
	State            State    `yaml:"state"`
	Profiling        bool     `yaml:"profiling,omitempty"`          // pprof beside the metrics; loopback only
	DefaultTimeoutMS int      `yaml:"default_timeout_ms,omitempty"` // deadline of a request that sets none
	DrainTimeoutMS   int      `yaml:"drain_timeout_ms,omitempty"`   // bound of a graceful stop
	Limits           Limits   `yaml:"limits,omitempty"`
}

// TLS names the daemon's identity and the authority of its callers: files, or
// Vault. TLS 1.3 and a client certificate are always required: there is no key
// to switch them off.
type TLS struct {
	Certificate string `yaml:"certificate,omitempty"` // PEM, leaf first
	Key         string `yaml:"key,omitempty"`         // PEM
	ClientCA    string `yaml:"client_ca,omitempty"`   // PEM, one or more authorities of callers
	CRL         string `yaml:"crl,omitempty"`         // PEM, a revocation list of each of them; empty: none
	RefreshSec  int    `yaml:"refresh_sec,omitempty"` // seconds between looks at all of it
	Vault       Vault  `yaml:"vault,omitempty"`
}

// Vault says where the daemon's certificate, the authorities of its clients and
// their revocations come from instead of files.
type Vault struct {
	secrets.Config    `yaml:",inline"`
	secrets.PKIConfig `yaml:",inline"`
}

// Used reports whether certificates come from Vault.
func (v *Vault) Used() bool { return v.Address != "" }

// Listener is one more listener with client certificates of its own.
type Listener struct {
	Listen   string `yaml:"listen,omitempty"`    // host:port; empty is none
	ClientCA string `yaml:"client_ca,omitempty"` // as tls.client_ca
	CRL      string `yaml:"crl,omitempty"`       // as tls.crl
}

// HSM says where the workers are.
type HSM struct {
	SocketDir string `yaml:"socket_dir"` // directory of worker-<n>.sock
}

// State says where tokens are remembered: in a directory, by this daemon alone,
// or in a PostgreSQL database that many daemons share.
type State struct {
	Dir      string   `yaml:"dir,omitempty"`        // directory of the embedded engine
	CacheMiB int      `yaml:"cache_mib,omitempty"`  // memory for the embedded engine's blocks
	Backups  string   `yaml:"backup_dir,omitempty"` // directory in which backups of the embedded engine are made
	Postgres Postgres `yaml:"postgres,omitempty"`
}

// Postgres is a database. Its password is in a file, or comes from Vault.
type Postgres struct {
	Connection             string `yaml:"connection,omitempty"`    // URL or keywords, without a password
	PasswordFile           string `yaml:"password_file,omitempty"` // mode 0600
	Vault                  bool   `yaml:"vault,omitempty"`         // credentials from the database engine of tls.vault's server
	secrets.DatabaseConfig `yaml:",inline"`
	Isolation              string `yaml:"isolation,omitempty"` // serializable (default) or "read committed"
}

// Used reports whether tokens are remembered in a database.
func (p *Postgres) Used() bool { return p.Connection != "" }

// Journal says where decisions are recorded.
type Journal struct {
	Dir string `yaml:"dir"`
}

// Limits bound what callers can make the daemon hold. Zero is the default.
type Limits struct {
	MessageBytes     int `yaml:"message_bytes,omitempty"`       // largest request message
	Connections      int `yaml:"connections,omitempty"`         // connections at one time
	Streams          int `yaml:"streams,omitempty"`             // calls and streams at one time on one connection
	TapsInStream     int `yaml:"taps_in_stream,omitempty"`      // taps in flight on one stream
	TapsInFlight     int `yaml:"taps_in_flight,omitempty"`      // taps in flight in all
	GCPercent        int `yaml:"gc_percent,omitempty"`          // growth of the Go heap between collections
	MemoryLimitMiB   int `yaml:"memory_limit_mib,omitempty"`    // soft limit of the Go runtime's memory
	ConnectionAgeSec int `yaml:"connection_age_sec,omitempty"`  // seconds after which a connection is asked to go; 0 is never
	IdleSec          int `yaml:"idle_connection_sec,omitempty"` // seconds after which an unused connection is closed
}

// LoadDaemon reads, completes and checks the file at path. The error names the
// path and the key.
func LoadDaemon(path string) (*Daemon, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	d, err := ParseDaemon(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("resolving the directory of %s: %w", path, err)
	}
	for _, p := range d.paths() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return d, nil
}

func (d *Daemon) paths() []*string {
	return []*string{
		&d.TLS.Certificate, &d.TLS.Key, &d.TLS.ClientCA, &d.TLS.CRL,
		&d.TLS.Vault.CAFile, &d.TLS.Vault.WrappedSecretID, &d.TLS.Vault.TokenFile,
		&d.Admin.ClientCA, &d.Admin.CRL, &d.Metrics.ClientCA, &d.Metrics.CRL,
		&d.Policy, &d.Assignments, &d.HSM.SocketDir, &d.Journal.Dir, &d.State.Dir, &d.State.Backups, &d.State.Postgres.PasswordFile,
	}
}

// ParseDaemon reads, completes and checks one YAML document.
func ParseDaemon(data []byte) (*Daemon, error) {
	d := &Daemon{}
	if err := strictyaml.Unmarshal(data, d); err != nil {
		return nil, err
	}
	d.Complete()
	if err := d.Check(); err != nil {
		return nil, err
	}
	return d, nil
}

// Marshal writes the configuration as YAML that ParseDaemon reads back.
func (d *Daemon) Marshal() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(d); err != nil {
		return nil, fmt.Errorf("writing configuration: %w", err)
	}
	return b.Bytes(), nil
}

// Complete sets the defaults of what was left out.
func (d *Daemon) Complete() {
	l := &d.Limits
	for _, v := range []struct {
		field *int
		value int
	}{
		{&d.DefaultTimeoutMS, DefaultTimeoutMS},
		{&d.DrainTimeoutMS, DefaultDrainMS},
		{&d.TLS.RefreshSec, DefaultRefreshSec},
		{&d.State.CacheMiB, DefaultStateCacheMiB},
		{&l.MessageBytes, DefaultMessageBytes},
		{&l.Connections, DefaultConnections},
		{&l.Streams, DefaultStreams},
		{&l.TapsInStream, DefaultTapsPerStream},
		{&l.TapsInFlight, DefaultTapsInFlight},
		{&l.GCPercent, DefaultGCPercent},
		{&l.IdleSec, DefaultIdleSec},
		{&l.MemoryLimitMiB, DefaultMemoryLimitMiB},
	} {
		if *v.field == 0 {
			*v.field = v.value
		}
	}
}

// DefaultTimeout is DefaultTimeoutMS as a duration.
func (d *Daemon) DefaultTimeout() time.Duration {
	return time.Duration(d.DefaultTimeoutMS) * time.Millisecond
}

// Refresh is TLS.RefreshSec as a duration.
func (d *Daemon) Refresh() time.Duration { return time.Duration(d.TLS.RefreshSec) * time.Second }

// DrainTimeout is DrainTimeoutMS as a duration.
func (d *Daemon) DrainTimeout() time.Duration {
	return time.Duration(d.DrainTimeoutMS) * time.Millisecond
}
