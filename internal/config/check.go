package config

import (
	"errors"
	"fmt"
	"net"
	"reflect"
	"strconv"
	"strings"

	"github.com/tapseal/tapseal/internal/secrets"
)

// A KeyError is a fault of one configuration key.
type KeyError struct {
	Key     string // as in the file, for example "tls.client_ca"
	Problem string
}

// Error is the key and its problem.
func (e *KeyError) Error() string { return e.Key + ": " + e.Problem }

// Check reports every value that is missing or out of range, as joined
// *KeyError. It opens no file.
func (d *Daemon) Check() error {
	var faults []error
	add := func(key, problem string) {
		if problem != "" {
			faults = append(faults, &KeyError{key, problem})
		}
	}
	add("listen", addressProblem(d.Listen))
	require := func(key, value string) {
		if value == "" {
			add(key, "is required")
		}
	}
	d.checkTLS(add, require)
	d.checkListener("admin", &d.Admin, add, require)
	d.checkListener("metrics", &d.Metrics, add, require)
	require("policy", d.Policy)
	require("assignments", d.Assignments)
	require("hsm.socket_dir", d.HSM.SocketDir)
	require("journal.dir", d.Journal.Dir)
	d.checkState(add)
	add("profiling", d.profilingProblem())
	d.checkNumbers(add)
	return errors.Join(faults...)
}

// checkTLS wants files or Vault, not both: of two certificates nobody could say
// which one is shown.
func (d *Daemon) checkTLS(add, require func(key, value string)) {
	t := &d.TLS
	if !t.Vault.Used() {
		if !reflect.ValueOf(t.Vault).IsZero() {
			add("tls.vault.address", "is required")
		}
		require("tls.certificate", t.Certificate)
		require("tls.key", t.Key)
		require("tls.client_ca", t.ClientCA)
		return
	}
	for _, v := range []struct{ key, value string }{
		{"tls.certificate", t.Certificate}, {"tls.key", t.Key}, {"tls.client_ca", t.ClientCA}, {"tls.crl", t.CRL},
	} {
		if v.value != "" {
			add(v.key, besideVault)
		}
	}
	for _, err := range []error{t.Vault.Config.Validate(), t.Vault.PKIConfig.Validate()} {
		for _, problem := range split(err) {
			key, text, _ := strings.Cut(problem, ": ")
			add("tls.vault."+key, text)
		}
	}
}

// checkState wants a directory or a database: of two memories nobody could say
// which one is asked.
func (d *Daemon) checkState(add func(key, problem string)) {
	p := &d.State.Postgres
	switch {
	case d.State.Dir == "" && !p.Used():
		add("state.dir", "is required, or state.postgres.connection")
	case d.State.Backups != "" && p.Used():
		add("state.backup_dir", "does not go together with state.postgres, which is backed up by its own means")
	case d.State.Dir != "" && p.Used():
		add("state.dir", "does not go together with state.postgres")
	}
	if !p.Used() {
		if *p != (Postgres{}) {
			add("state.postgres.connection", "is required")
		}
		return
	}
	switch {
	case p.Vault && p.PasswordFile != "":
		add("state.postgres.password_file", besideVault)
	case p.Vault && !d.TLS.Vault.Used():
		add("state.postgres.vault", "needs tls.vault, whose server and identity it uses")
	case !p.Vault && p.DatabaseConfig != (secrets.DatabaseConfig{}):
		add("state.postgres.vault", "must be true beside database_mount and database_role")
	}
	if p.Isolation != "" && p.Isolation != "serializable" && p.Isolation != "read committed" {
		add("state.postgres.isolation", `must be "serializable" or "read committed"`)
	}
	for _, problem := range split(p.DatabaseConfig.Validate()) {
		key, text, _ := strings.Cut(problem, ": ")
		add("state.postgres."+key, text)
	}
}

const besideVault = "does not go together with tls.vault, which brings it"

// split takes joined errors apart, each of which begins with its key.
func split(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func (d *Daemon) checkListener(name string, l *Listener, add, require func(key, value string)) {
	if l.Listen == "" {
		if l.ClientCA != "" || l.CRL != "" {
			add(name+".listen", "is required")
		}
		return
	}
	add(name+".listen", addressProblem(l.Listen))
	if !d.TLS.Vault.Used() {
		require(name+".client_ca", l.ClientCA)
		return
	}
	if l.ClientCA != "" {
		add(name+".client_ca", besideVault)
	}
	if l.CRL != "" {
		add(name+".crl", besideVault)
	}
}

func (d *Daemon) checkNumbers(add func(key, problem string)) {
	l := &d.Limits
	for _, v := range []struct {
		key      string
		n        int
		min, max int
	}{
		{"default_timeout_ms", d.DefaultTimeoutMS, 1, MaxTimeoutMS},
		{"drain_timeout_ms", d.DrainTimeoutMS, 1, maxDrainMS},
		{"state.cache_mib", d.State.CacheMiB, 1, maxStateCacheMiB},
		{"tls.refresh_sec", d.TLS.RefreshSec, 1, maxRefreshSec},
		{"limits.message_bytes", l.MessageBytes, minMessageBytes, maxMessageBytes},
		{"limits.connections", l.Connections, 1, maxConnections},
		{"limits.streams", l.Streams, 1, maxStreams},
		{"limits.taps_in_stream", l.TapsInStream, 1, maxTapsPerStream},
		{"limits.taps_in_flight", l.TapsInFlight, 1, maxTapsInFlight},
		{"limits.gc_percent", l.GCPercent, minGCPercent, maxGCPercent},
		{"limits.memory_limit_mib", l.MemoryLimitMiB, minMemoryLimitMiB, maxMemoryLimitMiB},
		{"limits.connection_age_sec", l.ConnectionAgeSec, 0, 1 << 30},
		{"limits.idle_connection_sec", l.IdleSec, 1, 1 << 30},
	} {
		if v.n < v.min || v.n > v.max {
			add(v.key, fmt.Sprintf("must be %d to %d, is %d", v.min, v.max, v.n))
		}
	}
	if l.TapsInStream > l.TapsInFlight {
		add("limits.taps_in_stream", "must not exceed limits.taps_in_flight")
	}
}

// profilingProblem keeps heap dumps, which can hold a PAN, off the network.
func (d *Daemon) profilingProblem() string {
	if !d.Profiling {
		return ""
	}
	if d.Metrics.Listen == "" {
		return "needs metrics.listen"
	}
	host, _, err := net.SplitHostPort(d.Metrics.Listen)
	if err != nil {
		return "" // reported at metrics.listen
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "needs metrics.listen on a loopback address such as 127.0.0.1"
	}
	return ""
}

func addressProblem(addr string) string {
	if addr == "" {
		return "is required"
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "must be host:port"
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
		return "port must be 0 to 65535"
	}
	return ""
}
