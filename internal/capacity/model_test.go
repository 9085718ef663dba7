package capacity

import (
	"math"
	"math/rand/v2"
	"testing"
)

// ordinary is the traffic of docs/capacity.md.
var ordinary = Traffic{
	Tokens: 1e9, PerSecond: 100_000,
	Responds: 0.2, Retries: 0.005, Replays: 0.001, Wrong: 0.002,
}

// measured are the numbers of docs/capacity.md.
var measured = Costs{
	HSMMicros: 190, DaemonMicros: 25, EngineMicros: 45, RowOverhead: 131, JournalBytes: 140,
	CommitMillis: 3, BatchMax: 256, CoreShare: 0.6, HSMCores: 16, DaemonCores: 8, PartitionCores: 16,
}

func TestModelAgreesWithTheTransition(t *testing.T) {
	for name, traffic := range map[string]Traffic{
		"ordinary":     ordinary,
		"no responses": {Retries: 0.01, Replays: 0.01, Wrong: 0.001},
		"attacked":     {Responds: 0.2, Replays: 0.2, Wrong: 0.05},
	} {
		s, err := traffic.Simulate(5000, 60, rand.New(rand.NewPCG(1, 2)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		near := func(what string, model, simulated float64) {
			t.Helper()
			t.Logf("%s: %s: model %.3f, simulation %.3f", name, what, model, simulated)
			if math.Abs(model-simulated) > 0.05*simulated {
				t.Errorf("%s: %s: the model says %.3f, the simulation %.3f", name, what, model, simulated)
			}
		}
		all := float64(s.Requests)
		near("writes", traffic.Writes(), float64(s.Writes)/all)
		if traffic.Wrong < 0.01 { // failures take room of their own until a right tap
			near("bytes of a record", traffic.RecordBytes(), s.RecordBytes)
		}
		if s.Accepts == 0 || s.LargestRecord > 160 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestPlanForABillionTokens(t *testing.T) {
	p := ordinary.Plan(measured)
	t.Logf("%+v", p)
	if p.HSMs < 1 || p.Daemons < p.Partitions || p.Batch > measured.BatchMax || p.StateBytes < 1e11 {
		t.Errorf("%+v", p)
	}
	// Twice the traffic needs about twice of everything: nothing is shared.
	twice := ordinary
	twice.PerSecond *= 2
	q := twice.Plan(measured)
	for what, v := range map[string][2]int{"HSMs": {p.HSMs, q.HSMs}, "daemons": {p.Daemons, q.Daemons}, "partitions": {p.Partitions, q.Partitions}} {
		if v[1] < 2*v[0]-2 || v[1] > 2*v[0] {
			t.Errorf("%s: %d, and %d for twice the traffic", what, v[0], v[1])
		}
	}
}
