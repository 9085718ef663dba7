package pkcs11

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tapseal/tapseal/cryptogram"
	"github.com/tapseal/tapseal/cryptogram/software"
	"github.com/tapseal/tapseal/hsm/worker"
)

// casesVariable sets the number of random cases of the differential test.
const casesVariable = "TAPSEAL_DIFFERENTIAL_CASES"

const defaultCases = 400

// Random requests of all profiles, right and wrong cryptograms mixed: the
// token's outcome must be the one of the software executor, to the last bit,
// and no object may stay behind.
func TestTokenAgainstSoftware(t *testing.T) {
	cases := defaultCases
	if s := os.Getenv(casesVariable); s != "" {
		cases = must1(strconv.Atoi(s))(t)
	}
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 3)
		token := tt.open(t)
		before := sessionObjects(t, token)
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		r := rand.New(rand.NewPCG(seed, 0))
		profiles := cryptogram.Profiles()
		matched, produced := 0, 0
		for done := 0; done < cases; {
			batch := min(cases-done, 1+r.IntN(2*chunkJobs)) // also more than one chunk
			jobs := make([]*worker.Job, batch)
			right := make([]bool, batch)
			for i := range jobs {
				prof := &profiles[(done+i)%len(profiles)]
				req := randomRequest(t, r, prof)
				id := tt.id(r.IntN(3))
				if right[i] = r.IntN(2) == 0; right[i] {
					makeRight(t, tt.values[id], &req)
				}
				jobs[i] = &worker.Job{Key: id}
				must(t, cryptogram.BuildPlan(&req, &jobs[i].Plan))
			}
			token.Execute(jobs)
			for i, j := range jobs {
				must(t, j.Err)
				var want cryptogram.Outcome
				must(t, software.Execute(tt.values[j.Key], &j.Plan, &want))
				if diff := cmp.Diff(want.Steps[0].Status, j.Outcome.Steps[0].Status); diff != "" || want != j.Outcome {
					t.Fatalf("case %d, profile %s: token and software differ: %s", done+i, profiles[(done+i)%len(profiles)].Name, diff)
				}
				if right[i] != (j.Outcome.Steps[0].Status == cryptogram.Matched) {
					t.Fatalf("case %d: right cryptogram %t, status %d", done+i, right[i], j.Outcome.Steps[0].Status)
				}
				if right[i] {
					matched++
				}
				if j.Outcome.Steps[1].Status == cryptogram.Produced {
					produced++
				}
			}
			done += batch
		}
		if matched == 0 || produced == 0 {
			t.Errorf("no case matched or produced a response: %d, %d", matched, produced)
		}
		if after := sessionObjects(t, token); after != before {
			t.Errorf("session objects: %d before, %d after", before, after)
		}
		if s := token.Stats(); s.Failures != 0 || s.SessionsReplaced != 0 || s.Jobs < uint64(cases) || s.InsideNanos == 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// A card's cryptogram with any bit flipped is no match, and then there is no
// response: the gate is in C, so it is tested on what comes out of C.
func TestGateForEveryBit(t *testing.T) {
	forEachProvider(t, func(t *testing.T, p provider) {
		tt := newTestToken(t, p, 1)
		token := tt.open(t)
		r := rand.New(rand.NewPCG(1, 2))
		for _, prof := range cryptogram.Profiles() {
			req := randomRequest(t, r, &prof)
			req.Response = randomResponse(r, &prof)
			makeRight(t, tt.values[tt.id(0)], &req)
			right := req.Cryptogram
			for bit := -1; bit < 64; bit++ {
				req.Cryptogram = right
				if bit >= 0 {
					req.Cryptogram[bit/8] ^= 0x80 >> (bit % 8)
				}
				job := worker.Job{Key: tt.id(0)}
				must(t, cryptogram.BuildPlan(&req, &job.Plan))
				token.Execute([]*worker.Job{&job})
				must(t, job.Err)
				want := [2]cryptogram.StepStatus{cryptogram.Mismatched, cryptogram.NotRun}
				if bit < 0 {
					want = [2]cryptogram.StepStatus{cryptogram.Matched, cryptogram.Produced}
				}
				got := [2]cryptogram.StepStatus{job.Outcome.Steps[0].Status, job.Outcome.Steps[1].Status}
				if got != want {
					t.Fatalf("profile %s, bit %d: got %v, want %v", prof.Name, bit, got, want)
				}
				if bit >= 0 && job.Outcome.Steps[1].Bytes != ([8]byte{}) {
					t.Fatalf("profile %s, bit %d: bytes of a response after a mismatch", prof.Name, bit)
				}
			}
		}
	})
}
