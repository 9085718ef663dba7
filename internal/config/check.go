package config

import (
	"errors"
	"fmt"
	"net"
	"strconv"
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
	for _, v := range []struct{ key, value string }{
		{"tls.certificate", d.TLS.Certificate},
		{"tls.key", d.TLS.Key},
		{"tls.client_ca", d.TLS.ClientCA},
		{"assignments", d.Assignments},
		{"hsm.socket_dir", d.HSM.SocketDir},
		{"journal.dir", d.Journal.Dir},
	} {
		if v.value == "" {
			add(v.key, "is required")
		}
	}
	if d.MetricsListen != "" {
		add("metrics_listen", addressProblem(d.MetricsListen))
	}
	add("profiling", d.profilingProblem())
	d.checkNumbers(add)
	return errors.Join(faults...)
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
		{"limits.message_bytes", l.MessageBytes, minMessageBytes, maxMessageBytes},
		{"limits.connections", l.Connections, 1, maxConnections},
		{"limits.streams", l.Streams, 1, maxStreams},
		{"limits.taps_in_stream", l.TapsInStream, 1, maxTapsPerStream},
		{"limits.taps_in_flight", l.TapsInFlight, 1, maxTapsInFlight},
		{"limits.gc_percent", l.GCPercent, minGCPercent, maxGCPercent},
		{"limits.memory_limit_mib", l.MemoryLimitMiB, minMemoryLimitMiB, maxMemoryLimitMiB},
		{"limits.connection_age_sec", l.ConnectionAgeSec, 0, 1 << 30},
		{"limits.idle_connection_sec", l.IdleSec, 0, 1 << 30},
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
	if d.MetricsListen == "" {
		return "needs metrics_listen"
	}
	host, _, err := net.SplitHostPort(d.MetricsListen)
	if err != nil {
		return "" // reported at metrics_listen
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "needs metrics_listen on a loopback address such as 127.0.0.1"
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
