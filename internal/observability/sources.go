package observability

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tapseal/tapseal/audit"
	"github.com/tapseal/tapseal/hsm"
	"github.com/tapseal/tapseal/internal/state/store"
)

// Sources are what is read at each scrape.
type Sources struct {
	InFlight func() int
	Places   func() int       // taps in flight that there may be now
	Ends     func() time.Time // of the service's certificate
	Pool     func() hsm.Stats
	Journal  func() audit.Stats
	State    func() store.Stats
}

// Watch adds the metrics of pool, journal and gate.
func (m *Metrics) Watch(s Sources) {
	m.registry.MustRegister(&sources{s, map[string]*prometheus.Desc{}})
}

// sources implements prometheus.Collector over snapshots, so that counters
// that are kept elsewhere are not kept twice.
type sources struct {
	s     Sources
	descs map[string]*prometheus.Desc
}

// Describe implements prometheus.Collector. It is called once, by Watch.
func (c *sources) Describe(ch chan<- *prometheus.Desc) {
	for _, name := range []string{
		nameInFlight, namePlaces, nameCertificateEnds, nameHSMConnections, nameHSMInFlight, nameHSMWaiting, nameHSMAnswers, nameHSMRetries,
		nameHSMLate, nameHSMConnects, nameHSMConnectFails, nameHSMLost, nameHSMGoAways,
		nameJournalRecords, nameJournalRefused, nameJournalFailed, nameJournalPending,
		nameStateConflicts, nameStateFailed, nameStateReachable,
	} {
		var labels []string
		if name == nameHSMAnswers {
			labels = []string{"answer"}
		}
		c.descs[name] = prometheus.NewDesc(name, help(name), labels, nil)
		ch <- c.descs[name]
	}
}

// Collect implements prometheus.Collector.
func (c *sources) Collect(ch chan<- prometheus.Metric) {
	send := func(name string, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(c.descs[name], t, v, labels...)
	}
	p, j, st := c.s.Pool(), c.s.Journal(), c.s.State()
	for name, v := range map[string]int{
		nameInFlight:       c.s.InFlight(),
		namePlaces:         c.s.Places(),
		nameHSMConnections: p.Connections,
		nameHSMInFlight:    p.InFlight,
		nameHSMWaiting:     p.Waiting,
		nameJournalPending: j.PendingRecords,
		nameStateReachable: oneIf(st.Reachable),
	} {
		send(name, prometheus.GaugeValue, float64(v))
	}
	send(nameCertificateEnds, prometheus.GaugeValue, float64(c.s.Ends().Unix()))
	for name, v := range map[string]uint64{
		nameHSMRetries:      p.Retries,
		nameHSMLate:         p.LateReplies,
		nameHSMConnects:     p.Connects,
		nameHSMConnectFails: p.HandshakeFailures,
		nameHSMLost:         p.ConnectionsLost,
		nameHSMGoAways:      p.GoAways,
		nameJournalRecords:  j.Records,
		nameJournalRefused:  j.Refused,
		nameJournalFailed:   j.FailedCommits,
		nameStateConflicts:  st.Conflicts,
		nameStateFailed:     st.Unavailable,
	} {
		send(name, prometheus.CounterValue, float64(v))
	}
	for a, n := range p.Answers {
		if a > 0 {
			send(nameHSMAnswers, prometheus.CounterValue, float64(n), hsm.Answer(a).String()) //nolint:gosec // an index of Answers
		}
	}
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
