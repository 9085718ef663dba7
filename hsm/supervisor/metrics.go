package supervisor

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics turns the status into Prometheus metrics, all named tapseal_hsm_*.
type metrics struct {
	s       *Supervisor
	stopped *prometheus.Desc
	logins  *prometheus.Desc
	noPIN   *prometheus.Desc
	slots   []slotMetric
}

type slotMetric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*WorkerStatus) float64
}

func newMetrics(s *Supervisor) *metrics {
	m := &metrics{
		s: s,
		stopped: prometheus.NewDesc("tapseal_hsm_login_stopped",
			"1 if no login is tried until an operator runs tapseal-hsm unlock.", nil, nil),
		logins: prometheus.NewDesc("tapseal_hsm_logins_total",
			"Logins of workers by result: ok, refused, failed, unknown.", []string{"result"}, nil),
		noPIN: prometheus.NewDesc("tapseal_hsm_pin_problem",
			"1 if Vault does not give the PIN: logins go on with the kept one for pin_max_age_seconds. Asked every minute.", nil, nil),
	}
	add := func(name, help string, kind prometheus.ValueType, of func(*WorkerStatus) float64) {
		desc := prometheus.NewDesc("tapseal_hsm_worker_"+name, help, []string{"worker"}, nil)
		m.slots = append(m.slots, slotMetric{desc, kind, of})
	}
	gauge, counter := prometheus.GaugeValue, prometheus.CounterValue
	add("up", "1 if a worker serves in this slot.", gauge, func(w *WorkerStatus) float64 {
		return truth(w.State == stateServing)
	})
	add("served_total", "Verifications taken through the token.", counter, func(w *WorkerStatus) float64 {
		return float64(w.ServedTotal)
	})
	add("guess_refused_total", "Verifications refused by the guess limiter.", counter, func(w *WorkerStatus) float64 {
		return float64(w.GuessRefused)
	})
	add("resident_bytes", "Resident set of the serving process.", gauge, func(w *WorkerStatus) float64 {
		return float64(w.ResidentBytes)
	})
	add("busy_seconds", "Age of the call into the module under way.", gauge, func(w *WorkerStatus) float64 {
		return float64(w.BusyMS) / 1000
	})
	add("connections", "Open connections.", gauge, func(w *WorkerStatus) float64 { return float64(w.Connections) })
	add("restarts_total", "Workers replaced after they died.", counter, func(w *WorkerStatus) float64 {
		return float64(w.Restarts)
	})
	add("recycles_total", "Workers replaced by count or on request.", counter, func(w *WorkerStatus) float64 {
		return float64(w.Recycles)
	})
	add("recycle_overdue", "1 if the worker has served 4 times recycle_after because replacements fail.", gauge,
		func(w *WorkerStatus) float64 { return truth(w.Overdue) })
	return m
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.stopped
	ch <- m.logins
	ch <- m.noPIN
	for _, sm := range m.slots {
		ch <- sm.desc
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.s.Status()
	ch <- prometheus.MustNewConstMetric(m.stopped, prometheus.GaugeValue, truth(st.Login == LoginStopped))
	ch <- prometheus.MustNewConstMetric(m.noPIN, prometheus.GaugeValue, truth(st.PIN.Problem != ""))
	for _, result := range []string{"ok", "refused", "failed", "unknown"} {
		ch <- prometheus.MustNewConstMetric(m.logins, prometheus.CounterValue, float64(st.Logins[result]), result)
	}
	for i := range st.Workers {
		for _, sm := range m.slots {
			ch <- prometheus.MustNewConstMetric(sm.desc, sm.kind, sm.of(&st.Workers[i]), strconv.Itoa(st.Workers[i].Slot))
		}
	}
}
