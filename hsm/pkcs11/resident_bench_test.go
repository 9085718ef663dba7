package pkcs11

import (
	"fmt"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/hsm/admin"
	"github.com/tapseal/tapseal/hsm/worker"
	"github.com/tapseal/tapseal/keys"
)

// addKeys makes many keys with one login.
func (tt *testToken) addKeys(tb testing.TB, n int) {
	tb.Helper()
	a, err := openAdmin(tt.cfg, readWrite, []byte(tt.pin))
	must(tb, err)
	defer a.close()
	set := &tt.manifest.Sets[0]
	for range n {
		_, value := randomKey()
		made := must1(a.importDemoKey(&admin.DemoKey{Label: "test", Value: value}))(tb)
		set.Versions = append(set.Versions, keys.Version{
			Number: uint32(len(set.Versions) + 1), ID: made.ID, State: keys.Active, CheckValue: made.CheckValue, Canary: made.Canary,
		})
		tt.values[made.ID] = value
	}
}

// BenchmarkResidentKeys is one verification on NSS softokn without a response,
// card keys cold, eight to a crossing, the issuer keys in turn: from the token
// objects and from session copies. docs/decisions/0010-resident-keys.md has
// the figures.
func BenchmarkResidentKeys(b *testing.B) {
	for _, issuerKeys := range []int{1, 10, 100} {
		tt := newTestToken(b, provider{nss: true}, 0)
		tt.addKeys(b, issuerKeys)
		tt.cfg.MeasureCPU = true
		for _, resident := range []bool{false, true} {
			b.Run(fmt.Sprintf("keys-%d/resident-%t", issuerKeys, resident), func(b *testing.B) {
				tt.cfg.ResidentKeys = resident
				token := must1(Open(tt.cfg, []byte(tt.pin), tt.manifest))(b)
				defer func() { must(b, token.Close()) }()
				jobs := benchJobs(b, tt, cryptogram.VisaCVN18, max(crossing, issuerKeys)/crossing*crossing+crossing)
				benchInTurn(b, token, jobs)
			})
		}
	}
}

// BenchmarkSubject is one verification without a response, card keys cold, eight
// to a crossing, one issuer key: without a subject key, with one, and with two as
// in a rotation; used in place and from session copies, where a token allows
// them. docs/decisions/0014-subjects.md has the figures.
func BenchmarkSubject(b *testing.B) {
	for _, p := range providers() {
		tt := newTestToken(b, p, 1)
		for subjects := range 3 {
			if subjects > 0 {
				tt.addSubjectKey(b)
			}
			for _, resident := range []bool{false, true} {
				b.Run(fmt.Sprintf("%s/subjects-%d/resident-%t", p.name, subjects, resident), func(b *testing.B) {
					tt.cfg.ResidentKeys, tt.cfg.MeasureCPU = resident, true
					token := must1(Open(tt.cfg, []byte(tt.pin), tt.manifest))(b)
					defer func() { must(b, token.Close()) }()
					jobs := benchJobs(b, tt, cryptogram.VisaCVN18, 8*crossing)
					benchInTurn(b, token, jobs)
				})
			}
		}
	}
}

// crossing is how many plans a data worker runs in one crossing under load.
const crossing = 8

func benchInTurn(b *testing.B, token *Token, jobs []*worker.Job) {
	b.Helper()
	token.Execute(jobs) // proves the keys
	for _, j := range jobs {
		must(b, j.Err)
	}
	before, next := token.Stats(), 0
	b.ReportAllocs()
	for b.Loop() {
		token.Execute(jobs[next : next+crossing])
		next = (next + crossing) % len(jobs)
	}
	after := token.Stats()
	for _, j := range jobs {
		must(b, j.Err)
	}
	b.ReportMetric(0, "ns/op") // of eight verifications: misleading
	perVerification := func(nanos uint64) float64 { return float64(nanos) / float64(after.Jobs-before.Jobs) / 1000 }
	b.ReportMetric(perVerification(after.InsideCPUNanos-before.InsideCPUNanos), "cpu-µs/verification")
	b.ReportMetric(perVerification(after.InsideNanos-before.InsideNanos), "µs/verification")
	b.ReportMetric(perVerification(uint64(b.Elapsed())), "µs-in-all/verification")
}

// BenchmarkLook is one look at the token objects of all resident keys, of
// which there is at most one a second.
func BenchmarkLook(b *testing.B) {
	for _, issuerKeys := range []int{1, 100} {
		tt := newTestToken(b, provider{nss: true}, 0)
		tt.addKeys(b, issuerKeys)
		b.Run(fmt.Sprintf("keys-%d", issuerKeys), func(b *testing.B) {
			tt.cfg.ResidentKeys = true
			token := must1(Open(tt.cfg, []byte(tt.pin), tt.manifest))(b)
			defer func() { must(b, token.Close()) }()
			for i := range issuerKeys {
				must(b, token.Prove(tt.id(i)))
			}
			for b.Loop() {
				token.now = token.now.Add(lookEvery)
				token.lookForResidents()
				must(b, token.residents.err)
			}
		})
	}
}

// BenchmarkHash is one subject hashed by itself under one key, in place and from
// a session copy.
func BenchmarkHash(b *testing.B) {
	for _, p := range providers() {
		tt := newTestToken(b, p, 0)
		tt.addSubjectKey(b)
		for _, resident := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/resident-%t", p.name, resident), func(b *testing.B) {
				tt.cfg.ResidentKeys, tt.cfg.MeasureCPU = resident, true
				token := must1(Open(tt.cfg, []byte(tt.pin), tt.manifest))(b)
				defer func() { must(b, token.Close()) }()
				pan := must1(cryptogram.ParsePAN("4111111111111111"))(b)
				in := keys.NewSubjectInput(&pan, cryptogram.PSN{})
				must2(token.Hash(&in)) // proves the key
				before := token.Stats()
				for b.Loop() {
					if _, err := token.Hash(&in); err != nil {
						b.Fatal(err)
					}
				}
				after := token.Stats()
				b.ReportMetric(float64(after.InsideCPUNanos-before.InsideCPUNanos)/float64(after.Jobs-before.Jobs)/1000, "inside-cpu-µs")
			})
		}
	}
}
