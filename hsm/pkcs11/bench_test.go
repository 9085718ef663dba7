package pkcs11

import (
	"math/rand/v2"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/worker"
)

// benchJobs are right requests of one profile for as many different cards.
func benchJobs(b *testing.B, tt *testToken, profile cryptogram.ProfileID, n int) []*worker.Job {
	b.Helper()
	prof, _ := cryptogram.LookupProfile(profile)
	r := rand.New(rand.NewPCG(3, 4))
	jobs := make([]*worker.Job, n)
	for i := range jobs {
		req := randomRequest(b, r, prof)
		req.Response = cryptogram.Response{}
		makeRight(b, tt.values[tt.id(0)], &req)
		jobs[i] = &worker.Job{Key: tt.id(0)}
		must(b, cryptogram.BuildPlan(&req, &jobs[i].Plan))
	}
	return jobs
}

// BenchmarkVerification is one verification without a response, card keys
// cold, eight to a crossing. It fails on any allocation.
func BenchmarkVerification(b *testing.B) {
	for _, p := range providers() {
		for _, profile := range []cryptogram.ProfileID{cryptogram.VisaCVN10, cryptogram.VisaCVN18} {
			prof, _ := cryptogram.LookupProfile(profile)
			b.Run(p.name+"/"+prof.Name, func(b *testing.B) {
				tt := newTestToken(b, p, 1)
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
			})
		}
	}
}
