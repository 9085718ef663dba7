package pkcs11

import (
	"errors"
	"testing"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
	"github.com/tapseal/tapseal/hsm/worker"
)

func TestMadeKeyIsProved(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		v := tt.manifest.Sets[0].Versions[0]
		value := tt.values[v.ID]
		if want := software.CheckValue(value[:]); v.CheckValue != want {
			t.Error("check value is not the one of software")
		}
		plan := canaryPlanFor(v)
		var out cryptogram.Outcome
		must(t, software.Execute(value, &plan, &out))
		if out.Steps[0].Status != cryptogram.Matched {
			t.Error("canary is not the one of software")
		}
		token := tt.open(t)
		must(t, token.Prove(v.ID))
		job := worker.Job{Key: v.ID, Plan: plan}
		token.Execute([]*worker.Job{&job})
		must(t, job.Err)
		if job.Outcome.Steps[0].Status != cryptogram.Matched {
			t.Errorf("canary in a job: %v", job.Outcome.Steps[0].Status)
		}
	})
}

func TestUnknownKey(t *testing.T) {
	tt := newTestToken(t, provider{}, 1)
	token := tt.open(t)
	job := worker.Job{Key: [16]byte{1}, Plan: canaryPlanFor(tt.manifest.Sets[0].Versions[0])}
	token.Execute([]*worker.Job{&job})
	if !errors.Is(job.Err, worker.ErrKeyUnknown) {
		t.Errorf("got %v", job.Err)
	}
}
