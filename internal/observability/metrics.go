package observability

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/internal/authz"
	"github.com/tapseal/tapseal/internal/verdict"
)

// maxProfiles bounds the table of counters; profile ids are small and stable.
const maxProfiles = 64

// Metrics are the daemon's own counters. Their methods are called for every
// tap: none of them allocates or looks up a label once it is warm.
type Metrics struct {
	registry *prometheus.Registry

	verifications *prometheus.CounterVec
	decided       [maxProfiles][verdict.Unknown + 1][verdict.MaxReason + 1]atomic.Pointer[counter]
	duration      prometheus.Histogram
	refused       *prometheus.CounterVec
	limited       *prometheus.CounterVec
	policies      *prometheus.CounterVec
	late          prometheus.Counter
	panics        prometheus.Counter
	streams       prometheus.Gauge
	messages      prometheus.Counter
	taps          prometheus.Counter
	serving       prometheus.Gauge
	commitTime    prometheus.Histogram
	commitRecords prometheus.Histogram
	stateTime     prometheus.Histogram
	stateOps      prometheus.Histogram
}

type counter struct{ prometheus.Counter }

// NewMetrics makes the metrics in a registry of their own.
func NewMetrics(version string) *Metrics {
	counterOf := func(name string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help(name)})
	}
	gaugeOf := func(name string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help(name)})
	}
	histogramOf := func(name string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help(name), Buckets: buckets})
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		verifications: prometheus.NewCounterVec(prometheus.CounterOpts{Name: nameVerifications, Help: help(nameVerifications)},
			[]string{"profile", "verdict", "reason"}),
		refused:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: nameRefused, Help: help(nameRefused)}, []string{"code"}),
		limited:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: nameLimited, Help: help(nameLimited)}, []string{"limit"}),
		policies: prometheus.NewCounterVec(prometheus.CounterOpts{Name: namePolicies, Help: help(namePolicies)}, []string{"result"}),
		duration: histogramOf(nameDuration, []float64{.0005, .001, .002, .003, .005, .0075, .01, .02, .03, .05, .1, .15, .25, .35, .5, 1, 10}),
		late:     counterOf(nameLate), panics: counterOf(namePanics),
		streams: gaugeOf(nameStreams), messages: counterOf(nameStreamMessages), taps: counterOf(nameStreamTaps),
		serving:       gaugeOf(nameServing),
		commitTime:    histogramOf(nameCommitDuration, prometheus.ExponentialBuckets(50e-6, 2, 16)),
		commitRecords: histogramOf(nameCommitRecords, prometheus.ExponentialBuckets(1, 2, 14)),
		stateTime:     histogramOf(nameStateDuration, prometheus.ExponentialBuckets(50e-6, 2, 16)),
		stateOps:      histogramOf(nameStateOps, prometheus.ExponentialBuckets(1, 2, 10)),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: nameBuild, Help: help(nameBuild)}, []string{"version", "go"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.verifications, m.duration, m.refused, m.limited, m.policies, m.late, m.panics, m.streams, m.messages,
		m.taps, m.serving, m.commitTime, m.commitRecords, m.stateTime, m.stateOps, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Decided counts one decision and how long it took.
func (m *Metrics) Decided(p cryptogram.ProfileID, d verdict.Decision, took time.Duration) {
	m.duration.Observe(took.Seconds())
	if int(p) >= maxProfiles || d.Verdict > verdict.Unknown || d.Reason > verdict.MaxReason {
		m.labelled(p, d).Inc()
		return
	}
	slot := &m.decided[p][d.Verdict][d.Reason]
	c := slot.Load()
	if c == nil {
		c = &counter{m.labelled(p, d)}
		slot.Store(c)
	}
	c.Inc()
}

func (m *Metrics) labelled(p cryptogram.ProfileID, d verdict.Decision) prometheus.Counter {
	name := strconv.Itoa(int(p))
	if row, ok := cryptogram.LookupProfile(p); ok {
		name = row.Name
	}
	return m.verifications.WithLabelValues(name, d.Verdict.String(), d.Reason.String())
}

// Refused counts a request without a decision.
func (m *Metrics) Refused(c codes.Code) { m.refused.WithLabelValues(c.String()).Inc() }

// RefusedTaps counts taps of a stream without a decision.
func (m *Metrics) RefusedTaps(c codes.Code, n int) {
	if n > 0 {
		m.refused.WithLabelValues(c.String()).Add(float64(n))
	}
}

// Limited counts taps and streams that a caller's own limit refused.
func (m *Metrics) Limited(by authz.LimitKind, n int) {
	m.limited.WithLabelValues(by.String()).Add(float64(n))
}

// PolicyLoaded counts attempts to put a policy in force.
func (m *Metrics) PolicyLoaded(ok bool) {
	result := "refused"
	if ok {
		result = "in_force"
	}
	m.policies.WithLabelValues(result).Inc()
}

// Late counts a tap answered before its decision was there.
func (m *Metrics) Late() { m.late.Inc() }

// Panicked counts a handler that panicked.
func (m *Metrics) Panicked() { m.panics.Inc() }

// StreamOpened counts a stream in.
func (m *Metrics) StreamOpened() { m.streams.Inc() }

// StreamClosed counts a stream out.
func (m *Metrics) StreamClosed() { m.streams.Dec() }

// StreamMessage counts one message with its taps.
func (m *Metrics) StreamMessage(taps int) {
	m.messages.Inc()
	m.taps.Add(float64(taps))
}

// Serving says what the health service says.
func (m *Metrics) Serving(yes bool) {
	if yes {
		m.serving.Set(1)
		return
	}
	m.serving.Set(0)
}

// StateCommitted is store.Options.OnCommit.
func (m *Metrics) StateCommitted(ops int, took time.Duration) {
	m.stateTime.Observe(took.Seconds())
	m.stateOps.Observe(float64(ops))
}

// Committed is audit.Options.OnCommit.
func (m *Metrics) Committed(records int, took time.Duration) {
	m.commitTime.Observe(took.Seconds())
	m.commitRecords.Observe(float64(records))
}
