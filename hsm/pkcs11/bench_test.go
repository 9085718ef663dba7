package pkcs11

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// benchJobs are right requests of one profile for as many different cards, the
// token's keys in turn.
func benchJobs(b *testing.B, tt *testToken, profile cryptogram.ProfileID, n int) []*worker.Job {
	b.Helper()
	prof, _ := cryptogram.LookupProfile(profile)
	r := rand.New(rand.NewPCG(3, 4))
	jobs := make([]*worker.Job, n)
	for i := range jobs {
		req := randomRequest(b, r, prof)
		req.Response = cryptogram.Response{}
		id := tt.id(i % len(tt.values))
		makeRight(b, tt.values[id], &req)
		jobs[i] = &worker.Job{Key: id, Subject: keys.NewSubjectInput(&req.PAN, req.PSN)}
		must(b, cryptogram.BuildPlan(&req, &jobs[i].Plan))
	}
	return jobs
}

// BenchmarkVerification is one verification without a response, card keys
// cold, eight to a crossing; there must be no allocation. With several issuer
// keys NSS softokn is some 20 times slower than with one: it runs its key
// derivation function over the PIN for each use of a stored key, and remembers
// the result for the last key only.
func BenchmarkVerification(b *testing.B) {
	for _, p := range providers() {
		for _, profile := range []cryptogram.ProfileID{cryptogram.VisaCVN10, cryptogram.VisaCVN18} {
			for _, issuerKeys := range []int{1, 2} {
				prof, _ := cryptogram.LookupProfile(profile)
				// No "=": it would end up in a directory name, which
				// SoftHSM cannot read from its configuration.
				name := fmt.Sprintf("%s/%s/keys-%d", p.name, prof.Name, issuerKeys)
				b.Run(name, func(b *testing.B) { benchVerification(b, p, profile, issuerKeys) })
			}
		}
	}
}

func benchVerification(b *testing.B, p provider, profile cryptogram.ProfileID, issuerKeys int) {
	tt := newTestToken(b, p, issuerKeys)
	tt.cfg.MeasureCPU = true
	token := tt.open(b)
	jobs := benchJobs(b, tt, profile, 8)
	token.Execute(jobs)
	before := token.Stats()
	b.ReportAllocs()
	b.ResetTimer()
	for n := 0; n < b.N; n += len(jobs) {
		token.Execute(jobs)
	}
	b.StopTimer()
	for _, j := range jobs {
		must(b, j.Err)
	}
	after := token.Stats()
	ran := float64(after.Jobs - before.Jobs)
	b.ReportMetric(float64(after.InsideNanos-before.InsideNanos)/ran/1000, "inside-µs")
	b.ReportMetric(float64(after.InsideCPUNanos-before.InsideCPUNanos)/ran/1000, "inside-cpu-µs")
}

// Steady state means no allocation at all, whatever the profile.
func TestExecuteAllocatesNothing(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	r := rand.New(rand.NewPCG(9, 10))
	tt.addSubjectKey(t)
	tt.addSubjectKey(t)
	token := tt.open(t)
	var jobs []*worker.Job
	for _, prof := range cryptogram.Profiles() {
		req := randomRequest(t, r, &prof)
		req.Response = randomResponse(r, &prof)
		if len(jobs)%2 == 0 {
			makeRight(t, tt.values[tt.id(0)], &req)
		}
		job := &worker.Job{Key: tt.id(0), Subject: keys.NewSubjectInput(&req.PAN, req.PSN)}
		must(t, cryptogram.BuildPlan(&req, &job.Plan))
		jobs = append(jobs, job)
	}
	token.Execute(jobs) // proves the key
	if n := testing.AllocsPerRun(50, func() { token.Execute(jobs) }); n != 0 {
		t.Errorf("%v allocations in %d verifications", n, len(jobs))
	}
}
