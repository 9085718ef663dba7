package authz

import (
	"fmt"
	"testing"
	"time"
)

// manyKeySets is a policy with one caller of n key sets.
func manyKeySets(t testing.TB, n int) *Policy {
	sets := "["
	for i := range n {
		sets += fmt.Sprintf("set-%d, ", i)
	}
	m := sample()
	m.principals[0].keySets = sets[:len(sets)-2] + "]"
	m.principals[0].limits = "{taps_per_second: 10000000, burst: 10000000, taps_in_flight: 1000000, streams: 10}"
	return mustParse(t, m.yaml())
}

// TestHotPathAllocatesNothing holds the check and the limits to that.
func TestHotPathAllocatesNothing(t *testing.T) {
	live := NewLive()
	live.current.Store(manyKeySets(t, 100))
	caller := live.Caller("spiffe://acme.test/tokens")
	set := fmt.Sprintf("set-%d", 7)
	if n := testing.AllocsPerRun(1000, func() {
		id, _ := MethodByName("/tapseal.v1.CryptogramService/VerifyCryptograms")
		p, _ := caller.Principal()
		if !p.MayCall(id) || !p.Allows(id, set) || p.Allows(id, "absent") {
			t.Fatal("not allowed")
		}
		p.Release(p.Admit(time.Now(), 64).Taps)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkAllows(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("%d key sets", n), func(b *testing.B) {
			p := mustFind(b, manyKeySets(b, n), "spiffe://acme.test/tokens")
			sets := make([]string, 64)
			for i := range sets {
				sets[i] = fmt.Sprintf("set-%d", i*n/64)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if !p.Allows(MethodVerifyCryptograms, sets[i%64]) {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkPerTap is everything that a message of one tap costs; of more, the
// per-tap share is smaller.
func BenchmarkPerTap(b *testing.B) {
	live := NewLive()
	live.current.Store(manyKeySets(b, 1000))
	caller := live.Caller("spiffe://acme.test/tokens")
	now := time.Now()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p, _ := caller.Principal()
		a := p.Admit(now.Add(time.Duration(i)*time.Microsecond), 1)
		if a.Taps != 1 || !p.Allows(MethodVerifyCryptograms, "set-77") {
			b.Fatal("refused")
		}
		p.Release(1)
	}
}

func BenchmarkAdmitParallel(b *testing.B) {
	p := limited(Limits{TapsPerSecond: maxRate, Burst: maxCount, TapsInFlight: maxCount})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p.Release(p.Admit(time0, 1).Taps)
		}
	})
}

func BenchmarkMethodByName(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := MethodByName("/tapseal.v1.CryptogramService/Respond"); !ok {
			b.Fatal("unknown")
		}
	}
}

func BenchmarkPrincipal(b *testing.B) {
	p := mustParse(b, sample().yaml())
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := p.Principal("spiffe://acme.test/tokens"); !ok {
			b.Fatal("unknown")
		}
	}
}
