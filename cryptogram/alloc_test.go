package cryptogram_test

import (
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
)

// TestNoAllocations: the path of a good request, from field 55 to the plan,
// leaves nothing to the garbage collector.
func TestNoAllocations(t *testing.T) {
	for _, tp := range sound(t) {
		f55 := field55(tp.objects)
		pan, psn := mustPAN(t, tp.pan), mustPSN(t, tp.psn)
		var r cryptogram.Request
		var p cryptogram.Plan
		got := testing.AllocsPerRun(100, func() {
			card, err := cryptogram.ParseField55(f55)
			if err != nil {
				t.Error(err)
			}
			if tp.profile.SelectedBy == cryptogram.SelectedByCVN {
				if _, _, err := cryptogram.SelectProfile(tp.profile.Scheme, card.IAD()); err != nil {
					t.Error(err)
				}
			}
			if tp.cvr != nil {
				if err := card.SetCVR(tp.cvr); err != nil {
					t.Error(err)
				}
			}
			if err := cryptogram.NewRequest(&card, pan, psn, true, tp.profile, tp.option, &r); err != nil {
				t.Error(err)
			}
			r.Response = tp.response
			if err := cryptogram.BuildPlan(&r, &p); err != nil {
				t.Error(err)
			}
			if err := cryptogram.Validate(&p, false); err != nil {
				t.Error(err)
			}
		})
		if got != 0 {
			t.Errorf("%s: %v allocations", tp.name, got)
		}
	}
}

func benchTap(b *testing.B, profile string) tap {
	b.Helper()
	for _, tp := range sound(b) {
		if tp.profile.Name == profile {
			return tp
		}
	}
	b.Fatalf("no tap for %s", profile)
	return tap{}
}

func BenchmarkParseField55(b *testing.B) {
	tp := benchTap(b, "visa-cvn18")
	f55 := field55(tp.objects)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cryptogram.ParseField55(f55); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNewRequest(b *testing.B) {
	tp := benchTap(b, "visa-cvn18")
	card, err := cryptogram.ParseField55(field55(tp.objects))
	if err != nil {
		b.Fatal(err)
	}
	pan, psn := mustPAN(b, tp.pan), mustPSN(b, tp.psn)
	var r cryptogram.Request
	b.ReportAllocs()
	for b.Loop() {
		if err := cryptogram.NewRequest(&card, pan, psn, true, tp.profile, tp.option, &r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuildPlan(b *testing.B) {
	for _, profile := range []string{"visa-cvn10", "visa-cvn18", "mastercard-cvn17"} {
		b.Run(profile, func(b *testing.B) {
			tp := benchTap(b, profile)
			r, err := tp.request()
			if err != nil {
				b.Fatal(err)
			}
			var p cryptogram.Plan
			b.ReportAllocs()
			for b.Loop() {
				if err := cryptogram.BuildPlan(&r, &p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkExecute(b *testing.B) {
	tp := benchTap(b, "visa-cvn18")
	tp.response = cryptogram.Response{}
	var p cryptogram.Plan
	if err := tp.plan(&p); err != nil {
		b.Fatal(err)
	}
	var o cryptogram.Outcome
	b.ReportAllocs()
	for b.Loop() {
		if err := software.Execute(tp.imk, &p, &o); err != nil {
			b.Fatal(err)
		}
	}
}
